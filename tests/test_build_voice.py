"""scripts/build_voice.py from a folder of recordings to a voice that speaks, with trainings of a few steps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import build_voice
import pytest
import soundfile

from recordings import training
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_process

pytestmark = pytest.mark.slow  # Whisper hears a minute of speech, and four trainings start


def test_from_recordings_to_a_voice_that_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recordings, seconds = tmp_path / "recordings", 0.0
    recordings.mkdir()
    for row in (REPOSITORY / "demo/unseen/filelist.txt").read_text(encoding="utf-8").splitlines():
        name, text = row.split("|")
        file = REPOSITORY / "demo/unseen" / name
        if seconds < 70:
            seconds += soundfile.info(file).duration
            shutil.copy2(file, recordings)
            (recordings / file.with_suffix(".txt").name).write_text(text, encoding="utf-8")
    for module in (build_voice, training):
        monkeypatch.setattr(module, "RATE_STEPS", 2)
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    shutil.copytree(REPOSITORY / "demo/voice", base)

    def config() -> build_voice.BuildConfig:
        return build_voice.BuildConfig(recordings="recordings", voice="tiny", base=str(base), judge=False, minutes=0.01)

    def build() -> str:
        config().folder.mkdir(parents=True, exist_ok=True)
        build_voice.build(config(), build_voice.audio_minutes(config()))
        return capfd.readouterr().out

    first = build()
    assert "[7/7] pack the voice" in first
    assert "train tacotron2_small for 2 steps" in first
    assert "mix 20% of the base into the Tacotron 2" in first
    # Of the trainings, their rates, the mixing, and the packing; the others look themselves.
    assert build().count("done before") == 6
    before = build_voice.rate_stage(config(), "waveglow_small").fingerprint()
    (base / "waveglow.safetensors").write_bytes(b"another base")
    assert build_voice.rate_stage(config(), "waveglow_small").fingerprint() != before
    report = (tmp_path / "runs/voices/tiny/report.md").read_text(encoding="utf-8")
    assert "| cut |" in report
    voice = tmp_path / "voices/tiny"
    assert report.splitlines()[0] in (voice / "README.md").read_text(encoding="utf-8")
    assert (voice / "tacotron2.safetensors").stat().st_size < 6e6  # 2.6 million parameters in 16 bits
    assert json.loads((tmp_path / "runs/voices/tiny/stages.json").read_text())
    (tmp_path / "phrases.txt").write_text("Hello there.\n")
    speak = ("inference.py", f"voice={voice}", f"input={tmp_path}/phrases.txt", f"output={tmp_path}/speech")
    run_process(*speak, "device=cpu")
    assert soundfile.info(tmp_path / "speech/0000.wav").duration > 0.3
    again = ("scripts/build_voice.py", f"recordings={recordings}", f"voice={voice}")
    fails_with(run_process(*again, expect=1), "a name of letters, digits")
