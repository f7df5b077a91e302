"""Free-running decoding with packed weights equals the step-by-step decoder."""

import dataclasses
from typing import Any

import pytest
import torch

from common.ops.packed import FLOAT16_ENGINES, Float16Linear, PackedLinear
from common.ops.padding import pad_last
from tacotron2.free_running import step_weights
from tacotron2.model import Tacotron2, Tacotron2Config, Tacotron2Speech
from tests.helpers.tacotron2 import NO_DROPOUT, TINY, golden_inputs, golden_model, model_of, ragged_batch


def both(model: Tacotron2, *arguments: Any) -> list[Tacotron2Speech]:
    """Synthesize with both decoders: (step by step, packed)."""
    results = []
    for fused in (False, True):
        model.decoder.fused = fused
        results.append(model.infer(*arguments))
    return results


def with_different_ends(model: Tacotron2, text: torch.Tensor, lengths: torch.Tensor, steps: int) -> int:
    """Shift the gate's bias to maximize the number of different steps at which utterances stop; return that number."""
    gate, logits = model.decoder.gate_layer, []
    hook = gate.register_forward_hook(lambda _module, _inputs, output: logits.append(output.squeeze(1)))
    model.decoder.fused = False
    model.decoder.config = dataclasses.replace(model.decoder.config, gate_threshold=2.0)
    model.infer(text, lengths, steps)
    model.decoder.config = dataclasses.replace(model.decoder.config, gate_threshold=0.5)
    hook.remove()
    table = torch.stack(logits)  # (steps, B)

    def ends(shift: torch.Tensor) -> set[int]:
        opens = table > shift
        return set(torch.where(opens.any(0), opens.int().argmax(0), steps).tolist())

    middles = (table.flatten().sort()[0][1:] + table.flatten().sort()[0][:-1]) / 2
    best = max(middles, key=lambda shift: len(ends(shift)))
    with torch.no_grad():
        gate.linear_layer.bias.sub_(best)
    return len(ends(best))


@pytest.mark.parametrize("frames_per_step", [1, 3])
@pytest.mark.parametrize(("threshold", "limits"), [(0.5, {}), (2.0, {}), (2.0, {"patience": 36, "window": 6})])
def test_equal_to_the_step_by_step_decoder(frames_per_step: int, threshold: float, limits: dict[str, int]) -> None:
    """Utterances stop at different steps and leave the batch, or never stop, or are given up at different steps."""
    model = model_of(dataclasses.replace(TINY, n_frames_per_step=frames_per_step)).double().eval()
    with torch.no_grad():
        model.decoder.gate_layer.linear_layer.weight *= 8
        model.decoder.linear_projection.linear_layer.weight *= 3
        model.decoder.attention_layer.v.linear_layer.weight *= 20  # the attention wanders
    torch.manual_seed(2)
    text, lengths = torch.randint(1, 148, (8, 15)), torch.randint(3, 16, (8,))
    assert with_different_ends(model, text, lengths, 40) > 3
    model.decoder.config = dataclasses.replace(model.decoder.config, gate_threshold=threshold)
    plain, packed = both(model, text, lengths, 80, None, *limits.values())
    if limits:
        assert len(set(plain.mel_lengths.tolist())) > 1
        assert plain.truncated.all()
    assert packed.mel_lengths.equal(plain.mel_lengths)
    assert packed.truncated.equal(plain.truncated)
    for name in ("mel_postnet", "alignment"):
        torch.testing.assert_close(getattr(packed, name), getattr(plain, name), atol=1e-10, rtol=0)


def test_equal_for_a_checkpoint_of_the_reference() -> None:
    _, inputs = golden_inputs()
    model = golden_model(gate_threshold=2.0).eval()
    plain, packed = both(model, inputs[0], inputs[1], 37)
    torch.testing.assert_close(packed.mel_postnet, plain.mel_postnet, atol=1e-5, rtol=0)


def float16_numbers(model: Tacotron2) -> Tacotron2:
    """The model with its weights rounded to float16 numbers, still stored in float32."""
    return model.half().float()


def test_weights_of_float16_numbers_are_read_as_float16() -> None:
    _, inputs = golden_inputs()
    model = float16_numbers(golden_model(gate_threshold=2.0)).eval()
    plain, packed = both(model, inputs[0], inputs[1], 37)
    torch.testing.assert_close(packed.mel_postnet, plain.mel_postnet, atol=1e-5, rtol=0)
    weights = step_weights(model.decoder, torch.float32, bits=32)
    expected = Float16Linear if torch.backends.quantized.engine in FLOAT16_ENGINES else PackedLinear
    assert {type(weights.attention_rnn), type(weights.query), type(weights.output)} == {expected}


def test_weights_that_change_are_packed_again() -> None:
    model = model_of(TINY).eval()
    text, text_lengths, *_ = ragged_batch()
    before = model.infer(text, text_lengths).mel_postnet
    with torch.no_grad():
        model.decoder.attention_rnn.weight_hh.mul_(2)
    plain, packed = both(model, text, text_lengths)
    assert not torch.equal(packed.mel_postnet, before)
    torch.testing.assert_close(packed.mel_postnet, plain.mel_postnet, atol=1e-5, rtol=0)


def test_prenet_dropout_follows_the_seed() -> None:
    model = model_of(dataclasses.replace(TINY, **(NO_DROPOUT | {"prenet_dropout": 0.5}))).eval()
    text, text_lengths, *_ = ragged_batch()
    mels = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        mels.append(model.infer(text, text_lengths).mel_postnet)
    assert torch.equal(mels[0], mels[1])
    assert mels[0].shape != mels[2].shape or not torch.equal(mels[0], mels[2])


@pytest.mark.parametrize("fused", [True, False])
def test_synthesis_without_dropout(fused: bool) -> None:
    """All texts, if the config says so, or those for which the list holds no generator."""
    model, never = golden_model(prenet_dropout=0.5).eval(), golden_model(prenet_dropout=0.0).eval()
    for one in (model, never):
        one.decoder.fused = fused
    text, lengths = golden_inputs()[1][:2]
    expected = never.infer(text, lengths, 20).mel_postnet
    some = model.infer(text, lengths, 20, [None, *(torch.Generator().manual_seed(i) for i in range(1, len(text)))])
    torch.testing.assert_close(some.mel_postnet[0], expected[0], atol=1e-6, rtol=0)
    assert all((a - b).abs().max() > 0.01 for a, b in zip(some.mel_postnet[1:], expected[1:], strict=True))
    before = torch.get_rng_state()
    model.config = dataclasses.replace(model.config, dropout_in_synthesis=False)
    found = model.infer(text, lengths, 20, torch.Generator().manual_seed(0)).mel_postnet
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_int8_is_close_to_float32() -> None:
    _, inputs = golden_inputs()
    model = golden_model(gate_threshold=2.0).eval()
    exact = model.infer(inputs[0], inputs[1], 37).mel_postnet
    model.decoder.weight_bits = 8
    rough = model.infer(inputs[0], inputs[1], 37).mel_postnet
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("fused", [True, False])
def test_a_text_does_not_depend_on_its_batch(fused: bool) -> None:
    """Given a generator for each text; also when others of the batch stop earlier."""
    model = golden_model(prenet_dropout=0.5).eval()
    model.decoder.fused = fused
    texts = [torch.arange(1, n) for n in (9, 5, 14)]
    lengths, text = torch.tensor([len(t) for t in texts]), pad_last(texts)

    def generator(i: int) -> torch.Generator:
        return torch.Generator().manual_seed(i)

    together = model.infer(text, lengths, 40, [generator(i) for i in range(3)])
    for i, own in enumerate(texts):
        alone = model.infer(own[None], lengths[i : i + 1], 40, [generator(i)])
        num_frames = int(alone.mel_lengths)
        assert num_frames == together.mel_lengths[i]
        torch.testing.assert_close(together.mel_postnet[i, :, :num_frames], alone.mel_postnet[0], atol=1e-3, rtol=0)


@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() != "AVX512", reason="other kernels may sum otherwise")
@pytest.mark.parametrize("is_half", [False, True])
@pytest.mark.parametrize("sizes", [(20, 130, 60), (300, 129, 8, 5, 64, 65, 1), (70,) * 17])
def test_a_text_has_the_same_bits_in_any_batch(sizes: tuple[int, ...], is_half: bool) -> None:
    """At full width, where products with one row and with several sum in different orders."""
    torch.manual_seed(0)
    model = Tacotron2(Tacotron2Config(gate_threshold=2.0)).eval()
    model = float16_numbers(model) if is_half else model
    texts = [torch.randint(1, 148, (n,)) for n in sizes]
    lengths = torch.tensor(sizes)
    together = model.infer(pad_last(texts), lengths, 9, [torch.Generator().manual_seed(i) for i in range(len(texts))])
    for i in (0, 1, len(texts) - 1):
        alone = model.infer(texts[i][None], lengths[i : i + 1], 9, [torch.Generator().manual_seed(i)])
        assert torch.equal(together.mel_postnet[i], alone.mel_postnet[0])
        assert torch.equal(together.alignment[i, :, : sizes[i]], alone.alignment[0])
