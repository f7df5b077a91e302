"""Metrics of how well Tacotron 2 follows the text and stops at its end.

Shapes: B batch, T mel frames, L characters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from common.ops.padding import lengths_to_mask

HALF_WIDTH = 0.1  # half-width of the diagonal, as a fraction of the text
GATE_TOLERANCE = 5  # decoder steps
# A jump back counts as a repeat if it stays on earlier words for this many frames, about 0.1 s; less is jitter.
REPEAT_FRAMES = 8
READ_FRAMES = 1.0  # a symbol counts as read if its attention sums to this many frames; a vowel has about ten
# A frame is focused if more than half of its attention is within this many symbols on each side of the peak.
FOCUS_SYMBOLS = 3


def diagonality(alignment: Tensor, text_lengths: Tensor, mel_lengths: Tensor) -> Tensor:
    """Return the fraction of the attention near the straight line from (first frame, first character) to (last, last),
    averaged over all frames. Near 1 the attention follows the text; at 0.2 or less it ignores it.

    alignment (B, T, L), text_lengths and mel_lengths (B). Pauses and changes of pace keep good voices below 1.
    """
    frame = (torch.arange(alignment.shape[1], device=alignment.device) + 0.5) / mel_lengths.unsqueeze(1)  # (B, T)
    character = (torch.arange(alignment.shape[2], device=alignment.device) + 0.5) / text_lengths.unsqueeze(1)  # (B, L)
    near = (frame.unsqueeze(2) - character.unsqueeze(1)).abs() <= HALF_WIDTH  # (B, T, L)
    mask = lengths_to_mask(mel_lengths, alignment.shape[1])
    return ((alignment * near).sum(2) * mask).sum() / mask.sum()


def gate_accuracy(gate: Tensor, mel_lengths: Tensor, frames_per_step: int, threshold: float = 0.5) -> Tensor:
    """Return the fraction of utterances whose gate opens at the last decoder step or up to GATE_TOLERANCE steps before.

    gate (B, T) logits, equal for the frames of a step; mel_lengths (B)
    """
    opens = (torch.sigmoid(gate) > threshold) & lengths_to_mask(mel_lengths, gate.shape[1])
    first = torch.where(opens.any(1), opens.int().argmax(1), gate.shape[1])  # frame
    last_step = (mel_lengths - 1) // frames_per_step
    right = (first // frames_per_step >= last_step - GATE_TOLERANCE) & opens.any(1)
    return right.float().mean()


class Reading(NamedTuple):
    """How a text was read, according to the attention."""

    coverage: float  # fraction of the words that were read
    skips: int  # groups of adjacent words that were not read
    repeats: int  # returns to an earlier word


def reading(alignment: Tensor, words: list[tuple[int, int]]) -> Reading:
    """Count the words read, skipped and repeated in the alignment (T, L) of one utterance.

    `words` are (first, end) symbols of each word, end exclusive. Only focused frames count (see FOCUS_SYMBOLS). A word
    is read if at least half of its symbols each get READ_FRAMES of attention, summed over these frames. A frame belongs
    to the word that gets more than half of its attention.
    """
    if not words or not len(alignment):
        return Reading(float(not words), min(len(words), 1), 0)
    read = words_read(alignment, words)
    skips = sum(not now and before for before, now in zip([True, *read], read, strict=False))
    places = [place for place in word_of_frames(alignment, words) if place >= 0]
    furthest, repeats, back = -1, 0, 0
    for place, following in zip(places, [*places, -1][1:], strict=True):
        back = back + 1 if place < furthest else 0
        repeats += back == REPEAT_FRAMES
        if place == following:  # two frames in a row: not a flicker
            furthest = max(furthest, place)
    return Reading(sum(read) / len(read), skips, repeats)


def words_read(alignment: Tensor, words: list[tuple[int, int]]) -> list[bool]:
    """Whether each word was read, see `reading`."""
    attended = alignment[_focused(alignment)].float().sum(0)  # (L) frames
    return [bool((attended[first:end] >= READ_FRAMES).float().mean() >= 0.5) for first, end in words]


def word_of_frames(alignment: Tensor, words: list[tuple[int, int]]) -> list[int]:
    """The word to which each frame belongs, see `reading`; -1: none, as in a pause."""
    share, word = torch.stack([alignment[:, first:end].float().sum(1) for first, end in words], 1).max(1)
    found: list[int] = torch.where(_focused(alignment) & (share > 0.5), word, -1).tolist()
    return found


def _focused(alignment: Tensor) -> Tensor:
    """(T) True for the frames with more than half of their attention near its peak."""
    distance = torch.arange(alignment.shape[1]) - alignment.argmax(1).unsqueeze(1)  # (T, L)
    return (alignment * (distance.abs() <= FOCUS_SYMBOLS)).sum(1) > 0.5
