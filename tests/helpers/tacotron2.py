"""Small Tacotron 2 models and batches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synthesis.models import load_model
from tacotron2.loss import tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tests.helpers.golden import golden, golden_path

NO_DROPOUT: dict[str, Any] = {
    "p_encoder_dropout": 0.0,
    "prenet_dropout": 0.0,
    "p_attention_dropout": 0.0,
    "p_decoder_dropout": 0.0,
    "p_postnet_dropout": 0.0,
}
TINY = Tacotron2Config(
    n_mel_channels=20,
    symbols_embedding_dim=16,
    encoder_embedding_dim=16,
    attention_rnn_dim=24,
    attention_dim=8,
    attention_location_n_filters=4,
    attention_location_kernel_size=7,
    decoder_rnn_dim=24,
    prenet_dim=12,
    max_decoder_steps=12,
    postnet_embedding_dim=16,
    **NO_DROPOUT,
)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def golden_model(**overrides: float) -> Tacotron2:
    model = load_model(golden_path("dle_tacotron2.pt"), **(NO_DROPOUT | overrides))
    assert isinstance(model, Tacotron2)
    return model


def golden_inputs() -> tuple[dict[str, Tensor], Batch]:
    io = golden("dle_tacotron2_io.pt")
    return io, (io["text"], io["text_lengths"], io["mel"], io["mel_lengths"])


def ragged_batch() -> Batch:
    """Return three utterances of different lengths, with random numbers in the padding."""
    torch.manual_seed(1)
    text = torch.randint(1, 148, (3, 9))
    mel = torch.randn(3, 20, 14)
    return text, torch.tensor([9, 4, 6]), mel, torch.tensor([7, 14, 10])


def model_of(config: Tacotron2Config) -> Tacotron2:
    torch.manual_seed(0)
    model = Tacotron2(config)
    for module in model.modules():  # running statistics unlike those of a new model
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


def outputs_and_gradients(
    model: Tacotron2, batch: tuple[Tensor, ...], fused: bool, frames_per_step: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Return the outputs, loss and gradients of one pass, by name. Each call draws the same dropout masks."""
    model.decoder.fused = fused
    model.zero_grad()
    torch.manual_seed(3)
    output = model(*batch)
    loss = tacotron2_loss(output, batch[2], batch[3], frames_per_step)["loss"]
    loss = loss + (output.alignment * torch.linspace(-1, 1, output.alignment.shape[2])).sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {**output._asdict(), "loss": loss}, gradients
