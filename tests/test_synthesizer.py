"""What the bundled voice synthesizes: alone or in a batch, whole or as a stream."""

from __future__ import annotations

import random

import pytest
import torch

from inference import Synthesizer
from synthesis.vocoder import EARLY
from tests.helpers import REPOSITORY
from tests.helpers.commands import run_process
from waveglow.overlap import field, measure_overlap

TEXTS = (
    "Yes.",
    "The wind was strong, and nobody came.",
    "It rained for three days, until the river rose above the second of the old marks on the bridge.",
    "What did he say?",
    "Nothing.",
)


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    """The bundled voice, with dropout: its numbers, too, must not depend on the other texts."""
    return Synthesizer.load(
        REPOSITORY / "demo/voice/tacotron2.safetensors", REPOSITORY / "demo/voice/waveglow.safetensors", device="cpu",
        dropout_in_synthesis=True,
    )  # fmt: skip


def test_a_text_sounds_the_same_in_any_batch_and_order(voice: Synthesizer) -> None:
    alone = {text: voice.speak(text, seed=3) for text in TEXTS}
    shuffled = random.Random(0).sample(TEXTS, len(TEXTS))
    for texts, size in ((TEXTS, 2), (shuffled, 5)):
        found = [utterance for batch in voice.batches(texts, size, seed=3) for utterance in batch]
        for text, utterance in zip(texts, found, strict=True):
            assert utterance is not None
            assert utterance.mel.shape == alone[text].mel.shape
            torch.testing.assert_close(utterance.mel, alone[text].mel, atol=1e-3, rtol=0)
            torch.testing.assert_close(utterance.audio, alone[text].audio, atol=2e-3, rtol=0)
    assert not torch.equal(voice.speak(TEXTS[1], seed=4).mel, alone[TEXTS[1]].mel)


def test_a_stream_equals_the_whole(voice: Synthesizer) -> None:
    text = " ".join(TEXTS[1:3])
    whole, parts = voice.speak(text), list(voice.stream(text))
    assert len(parts) >= 3
    assert len(parts[0]) < EARLY[0] * voice.audio.hop_length
    torch.testing.assert_close(torch.cat(parts), whole.audio, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="sigma=nan must be a finite number"):
        next(voice.stream(text, sigma=float("nan")))


def test_audio_in_chunks_equals_the_whole(voice: Synthesizer) -> None:
    """The mel is longer than the field of the model, so the ends of the chunks are far from its own."""
    waveglow, mel = voice.vocoder.waveglow, voice.speak(" ".join(TEXTS)).mel
    assert waveglow is not None
    assert mel.shape[1] > field(waveglow)
    audio = []
    for sizes, greedy in (((mel.shape[1],) * 2, False), (EARLY, False), (EARLY, True)):
        stream = voice.vocoder.stream(torch.Generator().manual_seed(1), sizes=sizes, greedy=greedy)
        parts = [*stream.feed(mel[:, :100]), *stream.feed(mel[:, 100:300]), *stream.close(mel[:, 300:])]
        audio.append(torch.cat(parts))
        torch.testing.assert_close(audio[0], audio[-1], atol=1e-4, rtol=0)
    assert 0 < measure_overlap(waveglow) < field(waveglow)


def test_warming_up_imports_what_numbers_need_and_changes_no_audio(voice: Synthesizer) -> None:
    before = voice.speak(TEXTS[0], seed=3).audio
    code = (
        "import sys; from synthesis.synthesizer import Synthesizer; "
        "voice = Synthesizer.load('demo/voice', device='cpu'); "
        "slow = {'inflect', 'sympy', 'scipy.signal', 'torch._dynamo'} & set(sys.modules); assert not slow, slow; "
        "voice.warm_up(); import inflect, typeguard; "
        "assert 'TypeCheckMemo' not in inflect.engine.ordinal.__code__.co_names; "
        "assert typeguard.typechecked.__module__.startswith('typeguard')"
    )
    run_process("-c", code)
    voice.warm_up()
    assert torch.equal(voice.speak(TEXTS[0], seed=3).audio, before)
