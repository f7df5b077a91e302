"""Faster and slower speech: resampled mels, and the bundled voice, whole, in a batch and as a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.errors import UserError
from inference import SpeechOptions, Synthesizer
from synthesis.sentences import Pauses
from synthesis.speed import Resampler, resampled_rows
from tests.helpers import REPOSITORY

TEXT = "Yes. No."
SPEEDS = (0.25, 0.3, 0.75, 1.0, 1.7, 4.0)


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(
        REPOSITORY / "demo/voice/tacotron2.safetensors", REPOSITORY / "demo/voice/waveglow.safetensors", device="cpu"
    )


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_mel_is_resampled_at_even_places(speed: float) -> None:
    mel = torch.arange(40.0).repeat(3, 1) * torch.tensor([[1.0], [2.0], [-0.5]])
    whole = Resampler(speed).feed(mel)
    places = torch.arange(whole.shape[1], dtype=torch.float64) * speed
    torch.testing.assert_close(whole, places.float() * torch.tensor([[1.0], [2.0], [-0.5]]), rtol=0, atol=1e-5)
    assert places[-1] <= 39 < places[-1] + speed + 1e-6  # to the end
    assert resampled_rows(torch.eye(40), speed).argmax(1).tolist() == places.round().long().tolist()


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_mel_in_parts_gives_the_same(speed: float) -> None:
    mel = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    whole, resampler = Resampler(speed).feed(mel), Resampler(speed)
    parts = [resampler.feed(part) for part in mel.split([1, 1, 0, 7, 2, 30, 19], 1)]
    assert torch.equal(torch.cat(parts, 1), whole)


@pytest.mark.parametrize("speed", [0.5, 4.0])
def test_a_stream_and_a_batch_equal_the_whole(voice: Synthesizer, speed: float) -> None:
    whole, plain = voice.speak(TEXT, speed=speed), voice.speak(TEXT)
    torch.testing.assert_close(torch.cat(list(voice.stream(TEXT, speed=speed))), whole.audio, atol=1e-4, rtol=0)
    batch = next(voice.batches([TEXT, "Oh."], 2, speed=speed))[0]
    assert batch is not None
    torch.testing.assert_close(batch.audio, whole.audio, atol=2e-3, rtol=0)
    assert len(whole.audio) == pytest.approx(len(plain.audio) / speed, rel=0.05)
    assert len(whole.alignment) == whole.mel.shape[1] == len(whole.audio) // voice.audio.hop_length
    # words and pauses scale
    assert [word.text for word in whole.words] == TEXT.split()
    for word, other in zip(whole.words, plain.words, strict=True):
        assert (word.start, word.end) == pytest.approx((other.start / speed, other.end / speed), abs=0.06 / speed)
    gaps = [(u.pieces[1].start - u.pieces[0].end) / voice.audio.sample_rate for u in (whole, plain)]
    assert gaps[0] == pytest.approx(0.3 / speed, abs=0.02)
    assert gaps[1] == pytest.approx(0.3, abs=0.02)


def test_a_speed_of_1_changes_nothing_and_the_pitch_stays(voice: Synthesizer) -> None:
    plain, same, fast = (voice.speak(TEXT, **options).audio for options in ({}, {"speed": 1.0}, {"speed": 1.5}))
    assert torch.equal(plain, same)
    centers = []
    for audio in (plain, fast):
        power = np.abs(np.fft.rfft(audio.numpy())) ** 2
        low = power[: len(power) * 400 * 2 // voice.audio.sample_rate]  # up to 400 Hz: the fundamental of this voice
        centers.append((low * np.arange(len(low))).sum() / low.sum() / len(audio))
    assert centers[1] == pytest.approx(centers[0], rel=0.05)


def test_speeds_out_of_range_are_refused() -> None:
    for speed in (0.2, 4.5, float("nan"), -1):
        with pytest.raises(UserError, match="speed="):
            SpeechOptions(speed=speed)
    assert Pauses(sentence=0.4).at(2).sentence == 0.2
