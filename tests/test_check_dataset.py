"""The dataset check names every bad row once, with its line number, and lists unusual rows separately."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from evaluation.corpus import outliers
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import tone, write_corpus

CHECK = "scripts/check_dataset.py"
RATE = 22050


@pytest.fixture
def bad_corpus(corpus: Path, tmp_path: Path) -> Path:
    """A good corpus with bad rows of every kind appended to its training list."""
    root = tmp_path / "bad"
    shutil.copytree(corpus, root)
    wavs = root / "wavs"
    good = tone(1.0, 0)
    soundfile.write(wavs / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(wavs / "rate.wav", tone(1.0, 1), 16000)
    soundfile.write(wavs / "stereo.wav", np.stack([good, good], 1), RATE)
    soundfile.write(wavs / "nan.wav", np.where(np.arange(len(good)) == 9, np.nan, good), RATE, subtype="FLOAT")
    soundfile.write(wavs / "whole.wav", good, RATE)
    content = (wavs / "whole.wav").read_bytes()
    (wavs / "truncated.wav").write_bytes(content[: len(content) // 2])
    (wavs / "header.wav").write_bytes(content[:44])
    (wavs / "empty.wav").write_bytes(b"")
    (wavs / "garbage.wav").write_bytes(b"garbage" * 99)
    soundfile.write(wavs / "quiet_ends.wav", np.concatenate([np.zeros(RATE), good, np.zeros(RATE)]), RATE)
    soundfile.write(wavs / "loud.wav", np.clip(20 * good, -1, 1), RATE)
    soundfile.write(wavs / "short.wav", good[:4000], RATE)
    rows = [f"wavs/{name}.wav|Some words for this one." for name in
            ("silent", "rate", "stereo", "nan", "truncated", "header", "empty", "garbage")]  # fmt: skip
    rows += ["wavs/whole.wav|###", "wavs/none.wav|No such file.", "wavs/whole.wav", "../../etc/passwd|Out."]
    rows += ["wavs/quiet_ends.wav|Silence before and after.", "wavs/loud.wav|Some words for this one."]
    rows += ["wavs/short.wav|So # short, and yet so very many words are said to be in it, who can believe that?"]
    with open(root / "filelists/train.txt", "a", encoding="utf-8") as file:
        file.write("".join(f"{row}\n" for row in rows))
    return root


@pytest.mark.fault(16, 17)
def test_every_bad_row_is_named(bad_corpus: Path, tmp_path: Path) -> None:
    result = run_here(CHECK, f"data.root={bad_corpus}", f"output={tmp_path / 'out'}", "num_processes=1", expect=1)
    fails_with(result, "12 row(s)", "must be corrected")
    report = (tmp_path / "out/report.txt").read_text()
    assert report.strip() in result.stdout
    assert (tmp_path / "out/report.png").stat().st_size > 10_000
    bad, notes = report.split("12 bad row(s):\n")[1].split("unusual row(s), which are not errors:\n")
    filelist = bad_corpus / "filelists/train.txt"
    lines = {line.split("|")[0]: number for number, line in enumerate(filelist.read_text().splitlines(), 1)}
    for name, reason in (
        ("wavs/silent.wav", "is silent"),
        ("wavs/rate.wav", "16000 Hz"),
        ("wavs/stereo.wav", "2 channels"),
        ("wavs/nan.wav", "NaN or infinite"),
        ("wavs/truncated.wav", "truncated, it holds 22"),
        ("wavs/header.wav", "truncated, it holds 0 of"),
        ("wavs/empty.wav", "not a readable audio file"),
        ("wavs/garbage.wav", "not a readable audio file"),
        ("wavs/none.wav", "does not exist"),
        ("../../etc/passwd", "not a path below"),
    ):
        rows = [row for row in bad.splitlines() if row.startswith(f"{filelist}:{lines[name]}:")]
        assert len(rows) == 1, name
        assert reason in rows[0]
    assert "nothing is left of '###'" in bad
    assert "1 column(s)" in bad
    assert "quiet_ends.wav: 1.00 s of silence at the start" in notes
    assert "quiet_ends.wav: 1.00 s of silence at the end" in notes
    assert "loud.wav: " in notes
    assert "are clipped" in notes
    assert "short.wav: 0.18 s, shorter than the 0.36 s of WaveGlow's segments" in notes
    assert "symbols per second, the median is" in notes
    assert "'#' x 2" in report


def test_a_good_corpus_has_a_table_and_no_bad_row(corpus: Path, tmp_path: Path) -> None:
    result = run_here(CHECK, f"data.root={corpus}", f"output={tmp_path}", "num_processes=1")
    assert "0 bad row(s)" in result.stdout
    table = {row.split()[0]: row.split() for row in result.stdout.splitlines() if row.startswith(("train ", "val "))}
    assert (table["train"][1], table["val"][1]) == ("7", "1")


@pytest.mark.fault(17)
def test_a_clip_in_two_lists_and_a_text_read_twice(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "both"
    shutil.copytree(corpus, root)
    train, val = ((root / f"filelists/{name}.txt").read_text() for name in ("train", "val"))
    first, second = train.splitlines()[:2]
    (root / "filelists/val.txt").write_text(val + first + "\n")
    (root / "filelists/train.txt").write_text(train.replace(second, f"{second.split('|')[0]}|{first.split('|')[1]}"))
    result = run_here(CHECK, f"data.root={root}", f"output={tmp_path / 'out'}", "num_processes=1", expect=1)
    assert "1 bad row(s)" in result.stdout
    assert f"val.txt:2: {first.split('|')[0]} is also in train" in result.stdout
    assert "train.txt:1: the same text as " in result.stdout


def test_outliers() -> None:
    assert outliers([]) == []
    assert outliers([10, 11, 9, 10, 12, 30]) == [False] * 5 + [True]
    assert not any(outliers([3.0]))


def test_silence_is_cut_off_the_ends(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "corpus")
    clips = sorted((root / "wavs").iterdir())
    lengths = []
    for clip in clips:
        audio, rate = soundfile.read(clip)
        lengths.append(len(audio))
        quiet = 1e-4 * np.random.default_rng(0).standard_normal(rate)
        soundfile.write(clip, np.concatenate([quiet, audio, quiet[: rate // 2]]), rate)
    run_here("scripts/trim_silence.py", root, tmp_path / "out", "--keep", "0.05")
    for clip, length in zip(clips, lengths, strict=True):
        audio, rate = soundfile.read(tmp_path / "out" / "wavs" / clip.name)
        assert abs(len(audio) - length - 2 * 0.05 * rate) < 0.1 * rate
    assert (tmp_path / "out" / "metadata.csv").read_bytes() == (root / "metadata.csv").read_bytes()
    assert soundfile.info(clips[0]).frames == lengths[0] + int(1.5 * 22050)  # the source is not changed
    fails_with(run_here("scripts/trim_silence.py", root, tmp_path / "out", expect=1), "exists already")
