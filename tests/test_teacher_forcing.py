"""The loops of the fast decoder give the outputs and gradients that autograd gives for the step-by-step decoder."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tacotron2.teacher_forcing import AttentionLoop, AttentionWeights, LSTMLoop, bidirectional
from tests.helpers.runs import losses, make_trainer
from tests.helpers.tacotron2 import TINY, golden_inputs, golden_model, model_of, outputs_and_gradients, ragged_batch


@pytest.mark.parametrize("frames_per_step", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_equal_to_the_step_by_step_decoder(training: bool, frames_per_step: int) -> None:
    """Outputs and all gradients are equal in float64, with padding, with and without dropout in the LSTMs."""
    dropout: dict[str, Any] = {name: 0.3 for name in ("p_attention_dropout", "p_decoder_dropout", "prenet_dropout")}
    config = dataclasses.replace(TINY, **dropout, n_frames_per_step=frames_per_step)
    model = model_of(config).double().train(training)
    text, text_lengths, mel, mel_lengths = ragged_batch()
    batch = (text, text_lengths, mel.double(), mel_lengths)
    plain, plain_gradients = outputs_and_gradients(model, batch, False, frames_per_step)
    fast, fast_gradients = outputs_and_gradients(model, batch, True, frames_per_step)
    for name, value in plain.items():
        torch.testing.assert_close(fast[name], value, atol=1e-12, rtol=1e-12, msg=name, check_dtype=False)
    for name, gradient in plain_gradients.items():
        assert gradient is not None
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-7, rtol=1e-7, msg=name)


def test_gradcheck() -> None:
    """The gradients of all inputs equal finite differences."""
    torch.manual_seed(0)
    steps, batch, length, size, memory_dim, dim, taps, width = 3, 2, 5, 3, 4, 3, 3, 2

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64).requires_grad_()

    kept = torch.rand(steps, batch, size) > 0.3
    lstm: Any = (
        random(steps, batch, width),
        random(4 * size, width),
        random(4 * size, size),
        random(4 * size),
        kept,
        1.4,
    )
    assert torch.autograd.gradcheck(LSTMLoop.apply, lstm)
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[1, 3:] = True
    weights = AttentionWeights(
        w_hc=random(4 * size, size + memory_dim), memory=random(batch, length, memory_dim),
        keys=random(batch, length, dim), padding=padding, w_query=random(dim, size),
        w_location=random(dim, 2, taps), v=random(dim), kept=kept,
    )  # fmt: skip
    attention: Any = (random(steps, batch, width), random(4 * size, width), random(4 * size), 1.4, *weights)
    assert torch.autograd.gradcheck(AttentionLoop.apply, attention)


def test_bidirectional_equals_packed_sequences() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(6, 5, batch_first=True, bidirectional=True).double()
    x, lengths = torch.randn(4, 9, 6, dtype=torch.float64).requires_grad_(), torch.tensor([9, 1, 4, 7])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected = torch.nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)[0]
    found = bidirectional(lstm, x, lengths)
    torch.testing.assert_close(found, expected)
    outside = torch.randn_like(expected)
    parameters = [x, *lstm.parameters()]
    for gradient, other in zip(
        torch.autograd.grad((found * outside).sum(), parameters),
        torch.autograd.grad((expected * outside).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(gradient, other)


def test_both_decoders_give_the_golden_output_of_the_reference() -> None:
    io, batch = golden_inputs()
    model = golden_model().eval()
    for fused in (False, True):
        model.decoder.fused = fused
        torch.testing.assert_close(model(*batch).mel_postnet, io["mel_out_postnet"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    model = model_of(TINY)
    batch = ragged_batch()
    exact = model(*batch)
    with torch.autocast("cpu", dtype):
        output = model(*batch)
    assert output.alignment.dtype == torch.float32
    torch.testing.assert_close(output.mel.float(), exact.mel, atol=0.1, rtol=0.1)
    output.mel.float().square().mean().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def test_a_kept_graph_gives_the_same_gradients_again() -> None:
    model = model_of(TINY)
    loss = model(*ragged_batch()).mel.square().sum()
    weights = list(model.decoder.parameters())
    first = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(loss, weights, allow_unused=True)
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_a_training_run_has_the_same_losses_either_way(corpus: Path, tmp_path: Path) -> None:
    for name, fused in (("plain", False), ("fast", True)):
        trainer = make_trainer(corpus, tmp_path / name, "tacotron2", "trainer.max_steps=6")
        trainer.state.model.decoder.fused = fused
        trainer.fit()
    plain, fast = losses(tmp_path / "plain"), losses(tmp_path / "fast")
    assert list(fast) == list(plain) == [1, 2, 3, 4, 5, 6]
    assert list(fast.values()) == pytest.approx(list(plain.values()), rel=1e-4)
