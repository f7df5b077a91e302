"""How well Tacotron 2 reads and stops, in numbers with known answers.

Shapes: B batch, T mel frames, L characters; all with the teacher's mel as input.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.padding import lengths_to_mask

BAND = 0.1  # half the width of the diagonal, as a share of the text
GATE_TOLERANCE = 5  # decoder steps


def diagonality(alignment: Tensor, text_lengths: Tensor, mel_lengths: Tensor) -> Tensor:
    """The share of the attention that lies near the straight line from (first frame, first character) to (last, last),
    a mean over all frames: 1 reads along, 0.2 or less knows nothing of the text.

    alignment (B, T, L), text_lengths and mel_lengths (B); pauses and pace keep good voices below 1.
    """
    frame = (torch.arange(alignment.shape[1], device=alignment.device) + 0.5) / mel_lengths.unsqueeze(1)  # (B, T)
    character = (torch.arange(alignment.shape[2], device=alignment.device) + 0.5) / text_lengths.unsqueeze(1)  # (B, L)
    near = (frame.unsqueeze(2) - character.unsqueeze(1)).abs() <= BAND  # (B, T, L)
    mask = lengths_to_mask(mel_lengths, alignment.shape[1])
    return ((alignment * near).sum(2) * mask).sum() / mask.sum()


def gate_accuracy(gate: Tensor, mel_lengths: Tensor, frames_per_step: int, threshold: float = 0.5) -> Tensor:
    """The share of utterances whose gate opens at the right time: not before GATE_TOLERANCE decoder steps to the last
    one, and by then.

    gate (B, T) logits, the same for the frames of a step.
    """
    opens = (torch.sigmoid(gate) > threshold) & lengths_to_mask(mel_lengths, gate.shape[1])
    first = torch.where(opens.any(1), opens.int().argmax(1), gate.shape[1])  # frame
    last_step = (mel_lengths - 1) // frames_per_step
    right = (first // frames_per_step >= last_step - GATE_TOLERANCE) & opens.any(1)
    return right.float().mean()
