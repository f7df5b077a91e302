"""How well Tacotron 2 reads and stops, in numbers with known answers.

Shapes: B batch, T mel frames, L characters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.ops.padding import lengths_to_mask

BAND = 0.1  # half the width of the diagonal, as a share of the text
GATE_TOLERANCE = 5  # decoder steps
RETURN = 8  # frames on words that were passed that make a return, about 0.1 s; less is a tremble between two words
READ = 1.0  # frames of attention in all that make a symbol read; a vowel has about ten
FOCUS = 3  # symbols to each side of the one with most attention that must have more than half of it


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


class Reading(NamedTuple):
    """How a text was read, by the attention."""

    coverage: float  # share of the words that were read
    skips: int  # groups of words that were left out
    repeats: int  # returns to a word from one that comes later


def reading(alignment: Tensor, words: list[tuple[int, int]]) -> Reading:
    """alignment (T, L) of one utterance; `words` are the first symbol of each and the one after its last.

    Only frames whose attention is in one place read anything. A word is read if half of its symbols get attention for
    READ frames in all. Where a frame is, the word with the most attention says.
    """
    if not words or not len(alignment):
        return Reading(float(not words), min(len(words), 1), 0)
    alignment = alignment.float()
    distance = torch.arange(alignment.shape[1]) - alignment.argmax(1).unsqueeze(1)  # (T, L)
    alignment = alignment[(alignment * (distance.abs() <= FOCUS)).sum(1) > 0.5]
    attended = alignment.sum(0)  # (L) frames
    read = [bool((attended[first:end] >= READ).float().mean() >= 0.5) for first, end in words]
    skips = sum(not now and before for before, now in zip([True, *read], read, strict=False))
    places = torch.stack([alignment[:, first:end].sum(1) for first, end in words], 1).argmax(1).tolist()
    furthest, repeats, back = -1, 0, 0
    for place, following in zip(places, [*places, -1][1:], strict=True):
        back = back + 1 if place < furthest else 0
        repeats += back == RETURN
        if place == following:  # not a flicker
            furthest = max(furthest, place)
    return Reading(sum(read) / len(read), skips, repeats)
