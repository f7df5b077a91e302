"""Silence around speech, and a loudness target: measured by libebur128, without clipping."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.errors import UserError
from inference import Synthesizer
from synthesis.audio_file import WavFile
from synthesis.loudness import CEILING, LoudnessMeter
from synthesis.sentences import Pauses
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here

RATE = 22050
TEXT = "Yes. No."
AROUND = Pauses(lead=0.5, trail=1.0)
needs_library = pytest.mark.skipif(importlib.util.find_spec("pyebur128") is None, reason="the extra [loudness]")


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(REPOSITORY / "demo/voice/tacotron2.safetensors", device="cpu")


def command(tmp_path: Path, *options: str) -> tuple[str, ...]:
    (tmp_path / "phrases.txt").write_text(f"{TEXT}\n", encoding="utf-8")
    return (
        "inference.py", f"tacotron2={REPOSITORY}/demo/voice/tacotron2.safetensors", "vocoder=griffin_lim",
        f"input={tmp_path}/phrases.txt", f"output={tmp_path}/out", "device=cpu", *options,
    )  # fmt: skip


def sine(amplitude: float, seconds: float = 2.0) -> torch.Tensor:
    return amplitude * torch.sin(2 * torch.pi * 997 * torch.arange(int(RATE * seconds)) / RATE)


def test_silence_before_and_after(voice: Synthesizer) -> None:
    plain, padded = (next(voice.batches([TEXT], pauses=pauses))[0] for pauses in (Pauses(), AROUND))
    assert plain is not None
    assert padded is not None
    hop = voice.audio.hop_length
    lead, trail = round(0.5 * RATE / hop) * hop, round(RATE / hop) * hop
    assert torch.equal(padded.audio, torch.nn.functional.pad(plain.audio, (lead, trail)))
    assert padded.mel.shape[1] == len(padded.alignment) == len(padded.audio) // hop
    assert padded.alignment[: lead // hop].argmax(1).tolist() == [0] * (lead // hop)
    for word, other in zip(padded.words, plain.words, strict=True):
        assert (word.text, word.span) == (other.text, other.span)
        assert (word.start, word.end) == pytest.approx((other.start + lead / RATE, other.end + lead / RATE))
    stream = torch.cat(list(voice.stream(TEXT, pauses=AROUND)))
    torch.testing.assert_close(stream, padded.audio, atol=1e-4, rtol=0)


def test_silence_in_a_file(voice: Synthesizer, tmp_path: Path) -> None:
    run_here(*command(tmp_path, "pauses.lead=0.5", "pauses.trail=1", "speed=2", "timings=[json]"))
    (utterance,) = next(voice.batches([TEXT], speed=2, pauses=AROUND))
    assert utterance is not None
    audio, _ = soundfile.read(tmp_path / "out/0000.wav", dtype="float32")
    np.testing.assert_allclose(audio, utterance.audio.clamp(-1, 1), atol=1e-4)
    rows = json.loads((tmp_path / "out/0000.json").read_text())["words"]
    assert [row["start"] for row in rows] == pytest.approx([word.start for word in utterance.words], abs=1e-3)
    (row,) = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()[1:]]
    assert row["audio_seconds"] == pytest.approx(len(audio) / RATE)


def test_a_file_is_scaled_in_place(tmp_path: Path) -> None:
    wav = WavFile(tmp_path / "a.wav", RATE)
    audio = sine(0.25, seconds=60)  # more than a block
    for part in audio.split(500_000):
        wav.append(part)
    wav.scale(2.0)
    wav.close()
    found, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(found, 2 * audio, atol=2.1 / 2**15)  # one step, twice as large


def test_without_the_library_a_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyebur128", None)
    fails_with(run_here(*command(tmp_path, "loudness=-23"), expect=1), "pyebur128", "[loudness]")
    assert not (tmp_path / "out").exists()


def test_a_stream_has_no_loudness(voice: Synthesizer) -> None:
    with pytest.raises(UserError, match="loudness=-23 is not for a stream"):
        next(voice.stream(TEXT, loudness=-23))


@needs_library
def test_a_sine_has_the_loudness_of_the_standard() -> None:
    """EBU Tech 3341: a sine of 1 kHz at -23 dBFS in two channels has -23 LUFS; in one, 3 LU less."""
    meter = LoudnessMeter(RATE)
    for part in sine(10 ** (-20 / 20)).split(3000):
        meter.add(part)
    assert meter.loudness == pytest.approx(-23.0, abs=0.1)
    gain, reached = meter.gain(-26)
    assert gain == pytest.approx(10 ** (-3 / 20), rel=0.02)
    assert reached == pytest.approx(-26)
    gain, reached = meter.gain(-2)  # the peak is at -20 dBFS, so 19 dB are allowed
    assert 20 * np.log10(gain) == pytest.approx(19, abs=0.1)
    assert reached == pytest.approx(-4, abs=0.2)
    silent = LoudnessMeter(RATE)
    silent.add(torch.zeros(RATE))
    assert silent.gain(-23)[0] == 1.0


@needs_library
def test_speech_and_its_file_have_the_loudness(voice: Synthesizer, tmp_path: Path) -> None:
    run_here(*command(tmp_path, "loudness=-26"))
    result = run_here(*command(tmp_path, "loudness=-5", f"output={tmp_path}/loud"))
    assert "true peak would exceed -1 dBTP" in result.stdout
    (utterance,) = next(voice.batches([TEXT], loudness=-26))
    assert utterance is not None
    audio, _ = soundfile.read(tmp_path / "out/0000.wav", dtype="float32")
    loud, _ = soundfile.read(tmp_path / "loud/0000.wav", dtype="float32")
    for samples in (utterance.audio, torch.from_numpy(audio)):
        meter = LoudnessMeter(RATE)
        meter.add(samples)
        assert meter.loudness == pytest.approx(-26, abs=0.1)
    np.testing.assert_allclose(audio, utterance.audio, atol=2e-4)
    assert np.abs(loud).max() <= 10 ** (CEILING / 20)
    assert np.abs(loud).max() > 0.7
