"""Clips have one rate and loudness; what is there is not made again, and what a change makes stale is."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from recordings import corpus
from recordings.clips import RATE, Clip, Clips
from recordings.corpus import Corpus, Dropped, Found, cut, find
from recordings.options import RecordingsConfig
from synthesis.loudness import LoudnessMeter
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import tone

DEMO = REPOSITORY / "demo/corpus"


def demo_rows(first: int, number: int) -> list[list[str]]:
    lines = (DEMO / "metadata.csv").read_text(encoding="utf-8").splitlines()[first : first + number]
    return [line.split("|") for line in lines]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """Four bundled clips at 32,000 Hz with silence around them, quiet, each with its text; an hour old."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, *texts in demo_rows(0, 4):
        audio, _ = soundfile.read(next((DEMO / "wavs").glob(f"{name}.*")))
        silence = np.zeros(20_000)
        path = folder / f"{name} x.flac"
        soundfile.write(path, 0.05 * np.concatenate([silence, audio, silence]), 32_000)
        path.with_suffix(".txt").write_text(texts[-1])
        os.utime(path, (1e9, 1e9))
    return folder


def options(folder: Path, **changes: Any) -> RecordingsConfig:
    return RecordingsConfig(**{"recordings": str(folder), "output": str(folder.parent / "out"), **changes})


def loudness(path: Path) -> float:
    import torch

    audio, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE
    meter = LoudnessMeter(rate)
    meter.add(torch.from_numpy(audio))
    return meter.loudness


def cut_there(folder: Path, **changes: Any) -> tuple[Found, list[Clips], Path]:
    found, work = find(folder), folder.parent / "work"
    return found, cut(found, work, options(folder, **changes)), work / "clips"


def test_short_recordings_with_texts_become_clips(recordings: Path) -> None:
    _, made, work = cut_there(recordings)
    clips = [clip for one in made for clip in one.clips]
    texts = {name: row[-1] for name, *row in demo_rows(0, 4)}
    assert {clip.name.removesuffix("_x"): clip.text for clip in clips} == texts
    for clip in clips:
        path = work / f"{clip.name}.wav"
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        assert loudness(path) == pytest.approx(-23, abs=0.1)
        audio, _ = soundfile.read(path)
        assert np.abs(audio[: RATE // 20]).max() < 0.01  # of the 0.1 s of silence
        assert info.duration == pytest.approx(clip.seconds, abs=0.001)
        assert clip.start > 0.4  # the silence is gone
        assert clip.clipped == 0


def test_only_what_a_change_makes_stale_is_made_again(recordings: Path) -> None:
    _, first, work = cut_there(recordings)
    names = [clip.name for one in first for clip in one.clips]

    def rewritten() -> list[int]:
        before = {name: (work / f"{name}.wav").stat().st_mtime_ns for name in names}
        cut_there(recordings)
        return [k for k, name in enumerate(names) if (work / f"{name}.wav").stat().st_mtime_ns != before[name]]

    assert rewritten() == []
    texts = sorted(recordings.glob("*.txt"))
    texts[1].write_text("Another text.")
    assert rewritten() == [1]
    os.utime(texts[3].with_suffix(".flac"), (1e9, 1.1e9))  # a recording that changed
    (work / f"{names[0]}.json").write_text("{")
    (work / f"{names[2]}.wav").write_bytes(b"")  # as after a power failure
    assert rewritten() == [0, 2, 3]
    assert rewritten() == []
    _, again, _ = cut_there(recordings, loudness=-30.0)
    assert loudness(work / f"{names[0]}.wav") == pytest.approx(-30, abs=0.1)
    assert again[1].clips[0].text == "Another text."


def made(folder: Path, number: int = 3) -> tuple[Corpus, list[Clips]]:
    """A corpus as `check` leaves it, with the audio of its clips."""
    audio = folder / "work/clips"
    audio.mkdir(parents=True)
    clips = [Clip(f"c{k}", "r", 10.0 * k, 10.0 * k + 5, f"Text {k}, with a comma.") for k in range(number)]
    for k, clip in enumerate(clips):
        soundfile.write(audio / f"{clip.name}.wav", tone(1.0, k), RATE)
    source = folder.parent / "source"
    source.mkdir()
    soundfile.write(source / "r.wav", tone(3.0, 9), RATE)
    kept, dropped = clips[:-1], [Dropped(clips[-1], "noise: DNSMOS gives 1.50, less than 2.2")]
    return Corpus(find(source), kept, dropped), [Clips(clips, None, "fingerprint")]


def test_the_files_of_a_corpus(tmp_path: Path) -> None:
    output = tmp_path / "out"
    found, clips = made(output)
    corpus.write(found, clips, output)
    assert found.is_new
    assert (output / "metadata.csv").read_text() == "c0|Text 0, with a comma.\nc1|Text 1, with a comma.\n"
    assert sorted(path.name for path in (output / "wavs").iterdir()) == ["c0.wav", "c1.wav"]
    (row,) = csv.DictReader((output / "dropped.csv").open(encoding="utf-8"))
    assert row == {"clip": "c2", "recording": "r", "start": "20.00", "end": "25.00",
                   "reason": "noise: DNSMOS gives 1.50, less than 2.2", "text": "Text 2, with a comma."}  # fmt: skip
    report = (output / "report.txt").read_text()
    assert "kept: 2 clips, 0.2 minutes" in report
    assert "1  noise" in report


def test_a_complete_corpus_is_left_alone_and_a_damaged_one_repaired(tmp_path: Path) -> None:
    output = tmp_path / "out"
    found, clips = made(output)
    corpus.write(found, clips, output)
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    corpus.write(found, clips, output)
    assert not found.is_new
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before
    (output / "wavs/c1.wav").unlink()
    found.is_new = True
    corpus.write(found, clips, output)
    assert found.is_new
    assert (output / "wavs/c1.wav").is_file()
    found.kept.pop()
    corpus.write(found, clips, output)
    assert [path.name for path in (output / "wavs").iterdir()] == ["c0.wav"]


def test_a_corpus_that_is_not_complete_has_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    found, clips = made(output)
    corpus.write(found, clips, output)
    found.kept.pop()
    (output / "report.txt").unlink()
    (output / "report.txt").mkdir()  # writing it fails, as on a full disk
    with pytest.raises(UserError, match=r"report.txt: not written"):
        corpus.write(found, clips, output)
    assert not (output / "metadata.csv").exists()
    (output / "report.txt").rmdir()
    corpus.write(found, clips, output)
    assert (output / "metadata.csv").read_text().count("\n") == 1


def test_a_folder_of_something_else_is_not_touched(recordings: Path) -> None:
    output = recordings.parent / "out"
    output.mkdir()
    (output / "precious.txt").write_text("x")
    command = ("scripts/cut_recordings.py", f"recordings={recordings}", f"output={output}")
    fails_with(run_here(*command, expect=1), "exists already, and is no corpus that this command made")
    assert [path.name for path in output.iterdir()] == ["precious.txt"]
    fails_with(run_here(command[0], command[1], f"output={recordings}/out", expect=1), "inside of recordings=")
    fails_with(run_here(*command, "speaker=anna", expect=1), "name no speakers")
    (output / "work").mkdir()  # of anything
    fails_with(run_here(*command, expect=1), "is no corpus that this command made")
    (output / "wavs").mkdir()
    recordings.rename(output / "wavs/mine")
    mine = (command[0], f"recordings={output}/wavs/mine", command[2])
    fails_with(run_here(*mine, expect=1), "inside of output=", "where files are replaced; move it")
    assert len(list((output / "wavs/mine").iterdir())) == 8


def test_a_recording_with_the_name_of_a_clip_of_another_is_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "take.wav", np.zeros(15 * RATE), RATE)
    soundfile.write(tmp_path / "take_2024.wav", np.zeros(2 * RATE), RATE)  # it has no 2,024 clips
    for name in ("short", "short_0002"):  # each is one clip
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(4 * RATE), RATE)
    find(tmp_path)
    soundfile.write(tmp_path / "Take_0003.wav", np.zeros(2 * RATE), RATE)
    with pytest.raises(UserError, match=r"Take_0003.wav would have the name of a clip of .*take.wav; rename one"):
        find(tmp_path)


def test_too_little_speech_is_refused_at_once(recordings: Path) -> None:
    output = recordings.parent / "out"
    result = run_here("scripts/cut_recordings.py", f"recordings={recordings}", f"output={output}", expect=1)
    fails_with(result, "s of speech; at least 60 s are needed", "add recordings")


def test_a_dry_run_writes_nothing(recordings: Path) -> None:
    output = recordings.parent / "out"
    command = ("scripts/cut_recordings.py", f"recordings={recordings}", f"output={output}", "dry_run=true")
    printed = run_here(*command).stdout
    assert "recordings: 4 files (4 .flac), 32,000 Hz" in printed
    assert "transcripts: a text file beside each recording, for 4 of 4" in printed
    assert "too little for a voice" in printed
    assert "would stay whole: 4 recordings; would be cut at pauses: 0" in printed
    assert not output.exists()
    assert len(list(recordings.iterdir())) == 8


def test_results_are_json_of_the_documented_fields(recordings: Path) -> None:
    _, made, work = cut_there(recordings)
    content = json.loads(next(iter(sorted(work.glob("*.json")))).read_text())
    assert set(content) == {"clips", "share_equal", "fingerprint"}
    assert content["clips"][0]["text"] == made[0].clips[0].text
