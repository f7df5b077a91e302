"""How far the attention has come through the texts of a batch, while the decoder is running.

Shapes: B batch, S steps, L characters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHECK_EVERY = 8  # steps between two looks at the gates and the attention; each look waits for the GPU
WINDOW_BACK = 3  # symbols behind the place that a window leaves free


@dataclass(frozen=True)
class Limits:
    """When the decoder gives an utterance up, and where its attention may look."""

    max_steps: int
    patience: int | None = None  # steps without progress after which an utterance is given up; None: no limit
    window: int | None = None  # symbols ahead of the place that the attention may look at; None: all


class Progress:
    """The place of each text is the furthest symbol that all steps of a block have reached, so a flicker moves none."""

    def __init__(self, padding: Tensor, limits: Limits) -> None:
        """padding (B, L) True beyond the end of a text"""
        self.padding, self.limits = padding, limits
        self.place = padding.new_zeros(len(padding), dtype=torch.long)
        self.idle = torch.zeros_like(self.place)  # steps since the place has changed

    def add(self, alignment: Tensor) -> Tensor:
        """The alignment (B, S, L) of the next steps -> (B) True for the texts to give up."""
        place = alignment.argmax(2).amin(1)
        self.idle = torch.where(place > self.place, 0, self.idle + alignment.shape[1])
        self.place = torch.maximum(place, self.place)
        return self.idle >= self.limits.patience if self.limits.patience else torch.zeros_like(self.place).bool()

    def hidden(self) -> Tensor:
        """(B, L) True where the attention may not look: at padding, and outside of the window."""
        if self.limits.window is None:
            return self.padding
        distance = torch.arange(self.padding.shape[1], device=self.place.device) - self.place.unsqueeze(1)
        return self.padding | (distance < -WINDOW_BACK) | (distance > self.limits.window)

    def join(self, other: Progress) -> None:
        """Add the texts of another batch, which are padded to the same length."""
        self.padding = torch.cat((self.padding, other.padding))
        self.place, self.idle = torch.cat((self.place, other.place)), torch.cat((self.idle, other.idle))

    def widen(self, length: int) -> None:
        """Pad the texts to `length` characters."""
        self.padding = F.pad(self.padding, (0, length - self.padding.shape[1]), value=True)

    def keep(self, rows: Tensor) -> None:
        """Keep only the rows of the batch for which `rows` (B) is True."""
        self.padding, self.place, self.idle = self.padding[rows], self.place[rows], self.idle[rows]
