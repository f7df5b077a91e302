"""Sums over several steps, for one line of the log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from common.distributed.ranks import sum_over_ranks
from common.training.task import Loss

T = TypeVar("T")


class Summary(NamedTuple):
    """A meter's result over all ranks."""

    parts: dict[str, float]  # means of the loss's parts over the items of batches with a finite loss; NaN: none had
    items: float
    padding_share: float  # fraction of all computed positions
    seconds: float  # on this rank


class Meter:
    """The sums of this rank, kept on the device, so that nothing waits for it before `summary`."""

    def __init__(self, part_names: Sequence[str]) -> None:
        self.start = time.monotonic()
        self.steps = self.positions = 0
        self.items: Tensor | int = 0
        self.data_wait = 0.0  # seconds
        self.skipped: Tensor | int = 0  # steps
        self.grad_norm: Tensor | float = 0.0  # of the last step
        self.part_names = part_names
        self.parts = [torch.zeros(()) for _ in part_names]  # weighted by items
        self.weight: Tensor | int = 0  # of the parts: the items of finite losses

    def add(self, loss: Loss) -> None:
        self.items = self.items + loss.num_items
        self.positions += loss.num_positions
        finite = torch.isfinite(loss.parts["loss"].detach())
        self.weight = self.weight + finite * loss.num_items
        for i, name in enumerate(self.part_names):
            part = loss.parts[name].detach().float() * loss.num_items
            self.parts[i] = self.parts[i] + torch.where(finite, part, 0)

    def add_step(self, grad_norm: Tensor, finite: Tensor) -> None:
        self.steps += 1
        self.skipped = self.skipped + (~finite).int()
        self.grad_norm = grad_norm

    def summary(self, device: torch.device) -> Summary:
        """Sum over all ranks; all of them must call it."""
        # This waits for the device, so the clock is read after it.
        sums = [float(self.items), self.positions, float(self.weight), *map(float, self.parts)]
        seconds = time.monotonic() - self.start
        items, positions, weight, *sums = sum_over_ranks(sums, device)
        means = [value / weight for value in sums] if weight else [math.nan] * len(sums)
        parts = dict(zip(self.part_names, means, strict=True))
        return Summary(parts, items, 1 - items / max(positions, 1), seconds)


@contextmanager
def paused(*meters: Meter) -> Iterator[None]:
    """The time spent in this context does not count for `meters`."""
    start = time.monotonic()
    yield
    for meter in meters:
        meter.start += time.monotonic() - start


def timed(iterable: Iterable[T], current: Callable[[], Meter]) -> Iterator[T]:
    """Yield the elements of `iterable`, and add the time spent waiting for each to the meter that is then current."""
    iterator = iter(iterable)
    while True:
        start = time.monotonic()
        try:
            element = next(iterator)
        except StopIteration:
            return
        current().data_wait += time.monotonic() - start
        yield element
