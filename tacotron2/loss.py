"""Tacotron 2's training losses: MSE before and after the postnet, cross-entropy of the gate, and two optional ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.padding import lengths_to_mask
from tacotron2.model import Tacotron2Output

GUIDE_WIDTH = 0.2  # g; positions are fractions of the lengths of text and mel


def gate_target(mel_lengths: Tensor, num_frames: int, frames_per_step: int) -> Tensor:
    """Return (B, T): 0 before the last decoder step of an utterance, then 1."""
    first = (mel_lengths - 1) // frames_per_step * frames_per_step
    return 1.0 - lengths_to_mask(first, num_frames).float()


def guided_attention_loss(alignment: Tensor, text_lengths: Tensor, mel_lengths: Tensor) -> Tensor:
    """Return the attention's penalty for distance from the diagonal, a scalar: the mean over frames without padding.

    It makes the attention align sooner on little data (Tachibana et al., 2017, section 4.1, with g = 0.2).
    alignment (B, T, L), text_lengths and mel_lengths (B)
    """
    frame = torch.arange(alignment.shape[1], device=alignment.device) / mel_lengths.unsqueeze(1)  # (B, T)
    character = torch.arange(alignment.shape[2], device=alignment.device) / text_lengths.unsqueeze(1)  # (B, L)
    distance = frame.unsqueeze(2) - character.unsqueeze(1)  # (B, T, L)
    penalty = 1 - torch.exp(-(distance**2) / (2 * GUIDE_WIDTH**2))
    mask = lengths_to_mask(mel_lengths, alignment.shape[1])
    return ((alignment * penalty).sum(2) * mask).sum() / mask.sum()


def mel_band_difference_loss(output: Tacotron2Output, mel: Tensor, mel_lengths: Tensor) -> Tensor:
    """Return the MSE of differences between adjacent mel bands, a scalar: that before the postnet plus that after it.

    Each is the mean over frames without padding. The loss emphasizes the harmonics of the voice, which a model trained
    with the MSE of the bands alone learns last.
    mel (B, n_mels, T), mel_lengths (B)
    """
    mask, target = lengths_to_mask(mel_lengths, mel.shape[2]), mel.diff(dim=1)
    before, after = (_masked_mse(bands.float().diff(dim=1), target, mask) for bands in (output.mel, output.mel_postnet))
    return before + after


def _masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """prediction and target (B, bands, T), mask (B, T) -> the mean over frames without padding"""
    return ((prediction - target) ** 2 * mask.unsqueeze(1)).sum() / (mask.sum() * target.shape[1])


def tacotron2_loss(
    output: Tacotron2Output, mel: Tensor, mel_lengths: Tensor, frames_per_step: int = 1
) -> dict[str, Tensor]:
    """Return {"mel", "mel_postnet", "gate", "loss" = their sum}, each a scalar: the mean over frames without padding.

    mel (B, n_mels, T), mel_lengths (B). The reference averages over padding too; without padding both are equal.
    """
    mask = lengths_to_mask(mel_lengths, mel.shape[2])  # (B, T)
    target = gate_target(mel_lengths, mel.shape[2], frames_per_step)
    cross_entropy = F.binary_cross_entropy_with_logits(output.gate.float(), target, reduction="none")
    parts = {
        "mel": _masked_mse(output.mel.float(), mel, mask),
        "mel_postnet": _masked_mse(output.mel_postnet.float(), mel, mask),
        "gate": (cross_entropy * mask).sum() / mask.sum(),
    }
    return {"loss": parts["mel"] + parts["mel_postnet"] + parts["gate"], **parts}
