"""From long recordings to a corpus, with Whisper and the other judges."""

import json
import os
import shutil
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from recordings.checks import compare
from tests.helpers import REPOSITORY
from tests.helpers.commands import Result, fails_with, run_here

pytestmark = pytest.mark.slow  # Whisper hears two minutes of speech twice, and each judge some 30 clips

DEMO = REPOSITORY / "demo/corpus"
RATE = 22050
NUM_CLIPS = 24


def joined(folder: Path, first: int, number: int, name: str, with_text: bool) -> str:
    """Write clips of the bundled corpus as one recording with pauses of 0.5 s; return what is said."""
    rows = [line.split("|") for line in (DEMO / "metadata.csv").read_text().splitlines()[first : first + number]]
    parts = []
    for clip, *_ in rows:
        audio, rate = soundfile.read(next((DEMO / "wavs").glob(f"{clip}.*")), dtype="float32")
        assert rate == RATE
        parts += [audio, np.zeros(RATE // 2, np.float32)]
    folder.mkdir(exist_ok=True)
    soundfile.write(folder / name, np.concatenate(parts), RATE)
    os.utime(folder / name, (1e9, 1e9))
    text = " ".join(row[-1] for row in rows)
    if with_text:
        (folder / name).with_suffix(".txt").write_text(text)
    return text


def cut_recordings(folder: Path, expect: int = 0) -> Result:
    options = (f"recordings={folder}", f"output={folder.parent / 'out'}", "num_processes=1")
    return run_here("scripts/cut_recordings.py", *options, expect=expect)


def times(folder: Path) -> dict[Path, int]:
    """When each file was written, without the lock, which each run touches."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("with_text", [False, True])
def test_long_recordings_become_a_corpus(with_text: bool, tmp_path: Path) -> None:
    folder, output = tmp_path / "recordings", tmp_path / "out"
    half = NUM_CLIPS // 2
    said = [joined(folder, k * half, half, f"part{k}.flac", with_text) for k in range(2)]
    printed = cut_recordings(folder).stdout
    assert f"next: bash scripts/prepare_dataset.sh {output}" in printed
    rows = [line.split("|") for line in (output / "metadata.csv").read_text().splitlines()]
    for name, _ in rows:
        info = soundfile.info(output / "wavs" / f"{name}.wav")
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        assert 1.0 <= info.duration <= 10.0
    for k, text in enumerate(said):
        found = " ".join(row[1] for row in rows if row[0].startswith(f"part{k}_"))
        kept = len(found.split()) / len(text.split())
        assert kept > 0.7
        if with_text:  # all its words are given ones, in their order
            assert set(found.split()) <= set(text.split())
            result = jiwer.process_words(text, found)
            assert result.substitutions + result.insertions <= 0.02 * len(text.split())
        else:
            words, wrong, _ = compare(text, found)
            assert wrong / words < 1.15 - kept
    before = times(output)
    assert "nothing has changed" in cut_recordings(folder).stdout
    assert times(output) == before
    if with_text:
        one_recording_changes(folder, output)
    else:
        a_run_was_interrupted(folder, output)


def one_recording_changes(folder: Path, output: Path) -> None:
    """Only that one is heard again."""

    def written() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (output / "work/heard").iterdir()}

    before = written()
    joined(folder, 0, NUM_CLIPS // 2 - 1, "part0.flac", with_text=True)
    assert "nothing has changed" not in cut_recordings(folder).stdout
    after = written()
    assert [name for name in before if after[name] != before[name]] == ["part0.json"]


def a_run_was_interrupted(folder: Path, output: Path) -> None:
    """It goes on, and ends with the same files."""
    expected = {path.name: path.read_bytes() for path in output.rglob("*") if path.suffix in (".wav", ".csv")}
    checked = output / "work/checked/clips.jsonl"
    lines = checked.read_text().splitlines(keepends=True)
    checked.write_text("".join(lines[:-2]) + lines[-2][:50])
    (output / "metadata.csv").unlink()
    shutil.rmtree(output / "wavs")
    cut_recordings(folder)
    assert {p.name: p.read_bytes() for p in output.rglob("*") if p.suffix in (".wav", ".csv")} == expected
    keys = [json.loads(line)["key"] for line in checked.read_text().splitlines() if line.endswith("}")]
    assert sorted(keys) == sorted(json.loads(line)["key"] for line in lines)  # only two were heard again


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    t = np.arange(100 * RATE) / RATE
    notes = 220 * 2 ** (np.array([0, 4, 7, 12, 7, 4])[(t * 3).astype(int) % 6] / 12)
    chord = sum(np.sin(2 * np.pi * notes * k * t) / k for k in (1, 2, 3))
    soundfile.write(folder / "music.flac", 0.2 * chord * np.exp(-3 * (t * 3 % 1)), RATE)
    os.utime(folder / "music.flac", (1e9, 1e9))
    fails_with(cut_recordings(folder, expect=1), "is it music or noise?")
    (folder / "music.flac").unlink()
    joined(folder, 0, NUM_CLIPS, "a.flac", False)
    said = joined(tmp_path / "other", 60, NUM_CLIPS, "b.flac", False)
    (folder / "a.txt").write_text(said)
    fails_with(
        cut_recordings(folder, expect=1), "of the words of the transcripts", "Are they those of other recordings"
    )
