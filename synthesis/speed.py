"""Faster or slower speech with the same pitch: the frames of the mel are resampled in time, before the vocoder.

Linear interpolation is understood as well as a cubic spline, and better than audio stretched by a phase vocoder
(scripts/benchmarks/speed.py: at 1.5 times the speed 9.5 % of the words are wrong, 5.8 % at the speed of the model).

Shapes: T mel frames, L symbols.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from common.schema import Range

Speed = Annotated[float, Range(least=0.25, most=4)]  # 2: twice as fast


class Resampler:
    """Resamples a mel that arrives in parts: the result does not depend on them. A speed of 1 changes nothing.

    Frame k of the result is at k * speed of the input, linearly interpolated between two log-mel frames.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.received = self.emitted = 0  # frames
        self.last: Tensor | None = None  # frame (n_mels, 1) before the next part

    def feed(self, mel: Tensor) -> Tensor:
        """The next frames (n_mels, t) -> all frames of the result (n_mels, u) that they determine."""
        if self.speed == 1 or not mel.shape[1]:
            return mel
        known = mel if self.last is None else torch.cat((self.last, mel), 1)
        first = self.received - (self.last is not None)  # of `known`
        self.received += mel.shape[1]
        self.last = mel[:, -1:]
        places = self._places()
        self.emitted += len(places)
        share = (places - places.floor()).to(mel)
        before, after = ((edge.long() - first).to(mel.device) for edge in (places.floor(), places.ceil()))
        return torch.lerp(known[:, before], known[:, after], share)

    def _places(self) -> Tensor:
        """Where the next frames of the result are in the input."""
        last = self.received - 1
        places = torch.arange(self.emitted, int(last / self.speed) + 2, dtype=torch.float64) * self.speed
        return places[places <= last]


def resampled_rows(alignment: Tensor, speed: float) -> Tensor:
    """An alignment (T, L) for the frames that a Resampler makes: of each, the nearest row."""
    if speed == 1:
        return alignment
    rows = Resampler(speed).feed(torch.arange(len(alignment), dtype=torch.float64).unsqueeze(0))
    return alignment[rows[0].round().long()]
