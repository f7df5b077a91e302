"""Tells from the log's lines whether training goes well, and which checkpoints can be trusted."""

from __future__ import annotations

import math

MAX_BAD_STEPS = 20  # consecutive; the loss scaler needs some to find its scale
EXPLODED = 100.0  # times the usual loss, which spikes do not reach
MAX_LOSS = 1e6  # while the usual one is unknown
MEMORY = 0.9  # weight of the earlier lines in the usual loss


class Health:
    """Whether the loss is finite and near the usual one. `step` is the one from which the run starts.

    The loss of a step is that of the weights before it. So weights are trusted once a later step had a good loss.
    """

    def __init__(self, step: int) -> None:
        self.step = step  # of the latest line
        self.trusted = step - 1  # the newest step whose weights are known to be good
        self.usual: float | None = None
        self.bad_steps = 0  # that the latest lines cover, if their losses were bad

    def see(self, step: int, loss: float) -> None:
        """Take note of the mean loss of the steps up to `step`."""
        if self.is_good(loss):
            self.usual = loss if self.usual is None else MEMORY * self.usual + (1 - MEMORY) * loss
            self.trusted, self.bad_steps = step - 1, 0
        else:
            self.bad_steps += step - self.step
        self.step = step

    def is_good(self, loss: float) -> bool:
        """Whether a loss is finite and has not exploded."""
        limit = MAX_LOSS if self.usual is None else EXPLODED * (1 + abs(self.usual))
        return math.isfinite(loss) and abs(loss) <= limit
