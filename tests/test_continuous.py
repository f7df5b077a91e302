"""Texts that join a running batch and leave it get what they get alone."""

import dataclasses
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from common.ops.padding import pad_last
from tacotron2.continuous import Continuous, SpeechPart, Text
from tacotron2.model import Tacotron2, Tacotron2Config
from tests.helpers.tacotron2 import TINY, golden_model, model_of
from tests.test_free_running import with_different_ends

LENGTHS = (9, 5, 14, 30, 3, 22, 8, 17)


def text_of(k: int, length: int, streamed: bool = False) -> Text:
    ids = torch.randint(1, 148, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return Text(ids, torch.Generator().manual_seed(k), streamed)


def collected(batch: Continuous, parts: dict[int, list[SpeechPart]], names: dict[int, int]) -> None:
    for text, part in batch.advance():
        parts.setdefault(names[id(text)], []).append(part)


def joined(parts: Iterable[SpeechPart]) -> tuple[Tensor, Tensor, bool, bool]:
    parts = list(parts)
    assert [part.ended for part in parts] == [False] * (len(parts) - 1) + [True]
    mel, alignment = torch.cat([part.mel for part in parts], 1), torch.cat([part.alignment for part in parts])
    return mel, alignment, parts[-1].stopped, parts[-1].ended


def alone(model: Tacotron2, k: int, length: int, streamed: bool, **limits: int) -> tuple[Tensor, Tensor, bool, bool]:
    batch, parts = Continuous(model, **limits), list[SpeechPart]()
    batch.join([text_of(k, length, streamed)])
    while batch:
        parts += [part for _, part in batch.advance()]
    return joined(parts)


def that_stops(frames_per_step: int = 1) -> Tacotron2:
    """A tiny model whose gate opens at different steps."""
    model = model_of(dataclasses.replace(TINY, n_frames_per_step=frames_per_step, prenet_dropout=0.5)).eval()
    with torch.no_grad():
        model.decoder.gate_layer.linear_layer.weight *= 8
        model.decoder.linear_projection.linear_layer.weight *= 3
    texts = [torch.tensor(text_of(k, length).ids) for k, length in enumerate(LENGTHS)]
    with_different_ends(model, pad_last(texts), torch.tensor(LENGTHS), 40)
    model.decoder.fused = True
    return model


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("frames_per_step", [1, 3])
@pytest.mark.parametrize("limits", [{}, {"patience": 36, "window": 6}, {"max_steps": 37}])
def test_joining_changes_nothing(streamed: bool, frames_per_step: int, limits: dict[str, int]) -> None:
    """A text joins after every second block; those that end leave. Alone each has the same speech, and `infer` too."""
    model = that_stops(frames_per_step)
    limits = {"max_steps": 120} | limits
    batch, parts, names, kept = Continuous(model, **limits), dict[int, list[SpeechPart]](), dict[int, int](), []
    for k, length in enumerate(LENGTHS):
        kept.append(text_of(k, length, streamed))
        names[id(kept[-1])] = k
        batch.join([kept[-1]])
        for _ in range(2):
            collected(batch, parts, names)
    while batch:
        collected(batch, parts, names)
    assert len({joined(of)[0].shape for of in parts.values()}) > 2
    for k, length in enumerate(LENGTHS):
        mel, alignment, stopped, _ = joined(parts[k])
        expected = alone(model, k, length, streamed, **limits)
        assert mel.shape == expected[0].shape
        torch.testing.assert_close(mel, expected[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(alignment, expected[1], atol=1e-5, rtol=0)
        assert stopped == expected[2]
        own = text_of(k, length)
        whole = model.infer(
            torch.tensor([own.ids]), torch.tensor([length]), limits["max_steps"], [own.generator],
            limits.get("patience"), limits.get("window"),
        )  # fmt: skip
        torch.testing.assert_close(mel, whole.mel_postnet[0], atol=1e-5, rtol=0)
        assert stopped != bool(whole.truncated)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="other kernels may sum otherwise")
def test_joining_changes_no_bit() -> None:
    """At full width, with texts that are longer and shorter than those that are running."""
    torch.manual_seed(0)
    model = Tacotron2(Tacotron2Config(gate_threshold=2.0)).eval()
    batch, parts, names, kept = Continuous(model, 16), dict[int, list[SpeechPart]](), dict[int, int](), []
    lengths = (20, 130, 7, 8, 64)
    for k, length in enumerate(lengths):
        kept.append(text_of(k, length))
        names[id(kept[-1])] = k
        batch.join([kept[-1]])
        collected(batch, parts, names)
    while batch:
        collected(batch, parts, names)
    for k, length in enumerate(lengths):
        expected = alone(model, k, length, False, max_steps=16)
        assert torch.equal(joined(parts[k])[0], expected[0])
        assert torch.equal(joined(parts[k])[1], expected[1])


def test_a_text_that_leaves_changes_nothing() -> None:
    model = golden_model(prenet_dropout=0.5, gate_threshold=2.0).eval()
    batch, parts, texts = Continuous(model, 40), dict[int, list[SpeechPart]](), [text_of(k, 5 + k) for k in range(3)]
    names = {id(text): k for k, text in enumerate(texts)}
    batch.join(texts)
    collected(batch, parts, names)
    batch.leave([texts[1]])
    assert len(batch) == 2
    while batch:
        collected(batch, parts, names)
    assert set(parts) == {0, 2}
    for k in (0, 2):
        expected = alone(model, k, 5 + k, False, max_steps=40)
        torch.testing.assert_close(joined(parts[k])[0], expected[0], atol=1e-5, rtol=0)
    batch.join([text_of(0, 5)])
    batch.leave(list(batch.texts.values()))
    assert not batch
    assert batch.advance() == []
