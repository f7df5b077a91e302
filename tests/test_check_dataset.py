"""The dataset check names every bad row once, with its line number, and lists unusual rows separately."""

import dataclasses
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.config import AudioConfig, DataConfig
from common.data.filelist import Clip
from common.wording import counted
from evaluation.corpus import Row, Sound, in_order, measure, read_text
from evaluation.findings import outliers
from evaluation.mismatch import find_shifts, mismatched_lengths, mismatched_words
from tacotron2.text import SYMBOLS
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import prepare, tone, write_corpus

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
    fails_with(result, "12 bad rows of", "must be corrected")
    report = (tmp_path / "out/report.txt").read_text()
    assert report.strip() in result.stdout
    assert (tmp_path / "out/report.png").stat().st_size > 10_000
    bad, notes = report.split("12 bad rows:\n")[1].split("unusual rows, which are not errors:\n")
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
    assert "1 column in" in bad
    assert "quiet_ends.wav: 1.00 s of silence at the start" in notes
    assert "quiet_ends.wav: 1.00 s of silence at the end" in notes
    assert "loud.wav: " in notes
    assert "are clipped" in notes
    assert "short.wav: 0.18 s, shorter than the 0.36 s of WaveGlow's segments" in notes
    assert "symbols per second, the median is" in notes
    assert "'#' x 2" in report
    assert "short.wav: left out, without a symbol: #" in notes


def test_a_good_corpus_has_a_table_and_no_bad_row(corpus: Path, tmp_path: Path) -> None:
    result = run_here(CHECK, f"data.root={corpus}", f"output={tmp_path}", "num_processes=1")
    assert "0 bad rows" in result.stdout
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
    assert "1 bad row:" in result.stdout
    assert f"val.txt:2: {first.split('|')[0]} is also in train" in result.stdout
    assert "train.txt:1: the same text as " in result.stdout


def checked(root: Path, *options: str) -> str:
    """Return the report on a corpus that has findings."""
    run_here("scripts/prepare_filelists.py", root)
    output = root / "check"
    result = run_here(CHECK, f"data.root={root}", f"output={output}", "num_processes=1", *options, expect=1)
    assert "must be corrected" in result.stderr
    return (output / "report.txt").read_text()


GERMAN = ["Er sagt 12 Sätze", "für 5 €", "ein Satz", "mit “Zeichen” – und …", "Über alles", "sechs", "sieben", "acht"]  # noqa: RUF001


def test_what_the_model_would_not_read_is_a_bad_row(tmp_path: Path) -> None:
    decomposed = [unicodedata.normalize("NFD", text) for text in GERMAN]
    root = write_corpus(tmp_path / "c", decomposed)
    report = unicodedata.normalize("NFC", checked(root, "data.cleaners=basic_cleaners"))
    rows = report.split("3 bad rows:\n")[1].split("\n\n")[0]
    assert "wavs/clip0.wav: the model would not read 1 2 ä in 'Er sagt 12 Sätze'" in rows
    assert "add the letters to data.characters, write numbers and signs as words, which basic_cleaners does not" in rows
    assert "wavs/clip1.wav: the model would not read ü 5 €" in rows
    assert "wavs/clip4.wav: the model would not read ü in" in rows
    assert "left out, without a symbol" not in report
    letters = re.search(r'data.characters="(.*)"', report)
    assert letters
    report = checked(root, "data.cleaners=basic_cleaners", f"data.characters={letters[1]}")
    assert "2 bad rows:" in report
    report = unicodedata.normalize("NFC", report)
    assert "'Er sagt 12 Sätze'; write numbers and signs as words, which basic_cleaners does not" in report


def test_a_long_clip_is_a_bad_row(tmp_path: Path) -> None:
    root = write_corpus(tmp_path / "c")
    soundfile.write(root / "wavs/clip3.wav", tone(21.0, 0), RATE)
    assert "clip3.wav has 21.0 s, more than max_seconds=20: attention does not learn" in checked(root)
    run_here(CHECK, f"data.root={root}", f"output={tmp_path}", "num_processes=1", "max_seconds=22")


def test_columns_are_checked_in_old_filelists_too(tmp_path: Path) -> None:
    root = prepare(write_corpus(tmp_path / "c", [f"Sentence number {i}." for i in range(12)]))
    rows = (root / "metadata.csv").read_text().splitlines()
    texts = [f"{row.split('|')[0]}|{row.split('|')[1]}|voice {i % 2}\n" for i, row in enumerate(rows)]
    (root / "metadata.csv").write_text("".join(texts))
    for name in ("train", "val"):  # as an earlier version wrote them
        filelist = root / f"filelists/{name}.txt"
        paths = [line.split("|")[0] for line in filelist.read_text().splitlines()]
        filelist.write_text("".join(f"{path}|voice {i % 2}\n" for i, path in enumerate(paths)))
    result = run_here(CHECK, f"data.root={root}", f"output={tmp_path}", "num_processes=1", expect=1)
    fails_with(result, "2 problems of the whole corpus of")
    assert "lines 1 to 12: the last column should be the transcript, but holds 2 values" in result.stdout
    assert "12 rows have only 2 different transcripts: 'voice " in result.stdout


@pytest.fixture(scope="module")
def speech() -> list[Row]:
    """The first 45 clips of the bundled corpus, in the order of its metadata."""
    root, rows = REPOSITORY / "demo/corpus", []
    for number, line in enumerate((root / "metadata.csv").read_text().splitlines()[:45], 1):
        name, _, text = line.split("|")
        path = f"wavs/{name}.ogg"
        clip = Clip(path, text, root, "metadata.csv", number)
        sound = measure((clip, AudioConfig(), False))
        assert isinstance(sound, Sound)
        rows.append(Row(clip, sound, read_text(clip, DataConfig(), SYMBOLS)))
    return rows


def with_texts_of(rows: list[Row], order: list[int]) -> list[Row]:
    """`rows` with the transcripts in another order."""
    return [
        Row(dataclasses.replace(row.clip, text=rows[k].clip.text), row.sound, rows[k].text)
        for row, k in zip(rows, order, strict=True)
    ]


def test_right_transcripts_fit_their_clips(speech: list[Row]) -> None:
    assert mismatched_lengths(speech) == []
    assert mismatched_lengths(speech[:9]) == []
    assert mismatched_lengths(with_texts_of(speech, [0] * 45)) == []  # equal lengths show nothing
    rng = np.random.default_rng(0)
    for _ in range(20):  # nor do almost equal ones
        seconds, symbols = (np.exp(0.05 * rng.standard_normal((2, 45))).T * [3.0, 40.0]).T
        assert find_shifts(seconds, symbols) == []


@pytest.mark.parametrize(
    ("by", "place", "move"), [(1, "1 row above", "down by 1 row"), (-2, "2 rows below", "up by 2 rows")]
)
def test_shifted_transcripts_are_found_by_their_lengths(speech: list[Row], by: int, place: str, move: str) -> None:
    (problem,) = mismatched_lengths(with_texts_of(speech, [(k + by) % 45 for k in range(45)]))
    assert f"{speech[0].clip.path} to {speech[44].clip.path} (45 clips): the transcripts are shifted" in problem
    assert f"fits the text of the clip {place} in metadata.csv" in problem
    assert f"move their texts {move}" in problem


def test_a_row_that_is_missing_shifts_the_rest(speech: list[Row]) -> None:
    (problem,) = mismatched_lengths(with_texts_of(speech, [*range(20), *range(21, 45), 0]))
    assert f"to {speech[44].clip.path}" in problem
    first = int(np.flatnonzero([problem.startswith(f"{row.clip.path} to") for row in speech])[0])
    assert abs(first - 20) <= 2
    lengths = np.array([row.sound.speech_seconds for row in speech])
    symbols = np.array([float(row.text.num_symbols) for row in speech])
    assert find_shifts(lengths, symbols) == []


def test_unrelated_transcripts_are_found_by_their_lengths(speech: list[Row]) -> None:
    (problem,) = mismatched_lengths(with_texts_of(speech, np.random.default_rng(0).permutation(45).tolist()))
    assert re.match(r"the lengths of transcripts and speech have a correlation of -?0\.[0-3]\d in 45 clips", problem)


@pytest.mark.slow
def test_whisper_hears_whose_text_it_is(speech: list[Row]) -> None:
    # Loads Whisper, which takes seconds. The last of the five clips has its own transcript.
    whole, bad, notes = mismatched_words(with_texts_of(speech[:5], [1, 2, 3, 0, 4]), num_clips=50)
    assert len(whole) == 1
    assert "in 4 of 5 clips; 3 of these say the text 1 row above in metadata.csv: move their texts down" in whole[0]
    assert [row.split(":")[1] for row in bad] == ["2", "3", "4"]
    assert len(notes) == 1
    assert "metadata.csv:1: " in notes[0]
    assert f"the transcript is {speech[1].clip.text[:60]!r} (" in notes[0]


def test_whisper_is_refused_where_it_hears_nothing(corpus: Path, tmp_path: Path) -> None:
    command = (CHECK, f"data.root={corpus}", f"output={tmp_path}", "whisper=true", "data.cleaners=basic_cleaners")
    fails_with(run_here(*command, expect=1), "whisper=true hears only English", "data.cleaners=basic_cleaners")


def test_rows_are_in_the_order_of_the_metadata_or_of_their_numbers(speech: list[Row]) -> None:
    rows = [Row(dataclasses.replace(speech[0].clip, path=f"wavs/{name}.wav"), speech[0].sound, speech[0].text)
            for name in ("clip10", "clip2", "b", "a")]  # fmt: skip
    names = [row.clip.path for row in in_order(rows, {"b": 0, "a": 1})]
    assert names == ["wavs/b.wav", "wavs/a.wav", "wavs/clip2.wav", "wavs/clip10.wav"]


def test_pauses_and_words_are_measured(tmp_path: Path) -> None:
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(RATE)
    parts = [quiet[: RATE // 2], tone(1.0, 0), quiet[: RATE // 4], tone(0.5, 1), quiet[: RATE // 20], tone(0.5, 2)]
    soundfile.write(tmp_path / "a.wav", np.concatenate(parts), RATE)
    clip = Clip("a.wav", "It's one {W ER1 D}, in 1851.", tmp_path, "list", 1)
    sound = measure((clip, AudioConfig(), False))
    assert isinstance(sound, Sound)
    assert sound.pauses == pytest.approx([0.25], abs=0.02)  # 0.05 s is no pause
    assert sound.speech_seconds == pytest.approx(2.05, abs=0.03)
    assert read_text(clip, DataConfig(), SYMBOLS).num_words == 7


def test_a_count_has_the_right_number() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2000)] == ["0 clips", "1 clip", "2,000 clips"]
    assert counted(2, "entry", "entries") == "2 entries"
    assert [counted(n, "minute") for n in (1.0, 0.5)] == ["1 minute", "0.5 minutes"]


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


def test_a_forgotten_convert_audio_is_one_message(corpus: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    shutil.copytree(corpus, root)
    for clip in (root / "wavs").iterdir():
        soundfile.write(clip, soundfile.read(clip)[0], 44100)
    result = run_here(CHECK, f"data.root={root}", f"output={tmp_path / 'out'}", "num_processes=1", expect=1)
    fails_with(result, "8 of 8 clips are not 22050 Hz mono, such as wavs/clip0.wav; add data.convert_audio=true")
