"""Divides the clips of an epoch into batches: a pure function of lengths, seed, epoch and batch sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

Draw = tuple[int, int]  # (index of a clip, epoch); randomness in a data set depends only on these and the run's seed
POOL_BATCHES = 16  # clips are sorted by length in pools of this many full batches: little padding, still random


class BatchSize(NamedTuple):
    """The limits of a batch, which is divided between the ranks."""

    clips: int  # limit over all ranks
    frames: int = 0  # limit on each rank, including padding; 0: no limit
    ranks: int = 1  # number of ranks; it matters only with a limit on frames, so 1 without one

    @classmethod
    def of(cls, clips: int, frames: int | None, ranks: int) -> BatchSize:
        """Build it from the limits of one rank."""
        return cls(clips * ranks, frames or 0, ranks if frames else 1)

    def fitting(self, length: int) -> int:
        """The number of clips that a batch may have if the longest has `length` frames."""
        return min(self.clips, self.frames // length * self.ranks) if self.frames else self.clips


Done = list[list[int]]  # [[*BatchSize, number of batches done with it], ...] in the current epoch


class BatchPlan:
    """The batches of every epoch, over all ranks together; each rank then takes its part.

    The plan depends only on its arguments. A run that resumes within an epoch therefore takes exactly the remaining
    clips, even with another number of ranks or another batch size. `lengths` are in mel frames.
    """

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.seed = seed

    def batches(self, epoch: int, size: BatchSize, done: Done) -> list[list[int]]:
        """Clip indices of each batch of `epoch` that remains after the batches in `done`.

        If `done` does not end with an entry of this size, one with 0 batches is appended; the caller increments it.
        """
        if not done or done[-1][:-1] != [*size]:
            done.append([*size, 0])
        left = np.arange(len(self.lengths))
        for *other, count in done[:-1]:
            for batch in self._group(left, epoch, BatchSize(*other))[:count]:
                left = left[~np.isin(left, batch)]
        return self._group(left, epoch, size)[done[-1][-1] :]

    def in_order(self, size: BatchSize) -> list[list[int]]:
        """The batches of all clips, shortest clips first."""
        return self._cut(np.argsort(self.lengths, kind="stable").tolist(), size)

    def largest(self, size: BatchSize) -> list[int]:
        """The batch with the most frames, padding included, that can occur in any epoch."""
        order = np.argsort(self.lengths, kind="stable")
        candidates = [
            order[max(0, i + 1 - size.fitting(int(self.lengths[clip]))) : i + 1] for i, clip in enumerate(order)
        ]
        widest = max(reversed(candidates), key=lambda clips: len(clips) * self.lengths[clips[-1]])
        return [int(clip) for clip in widest]

    def _group(self, clips: np.ndarray, epoch: int, size: BatchSize) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(clips)
        batches = []
        for start in range(0, len(shuffled), POOL_BATCHES * size.clips):
            pool = shuffled[start : start + POOL_BATCHES * size.clips]
            batches += self._cut(pool[np.argsort(self.lengths[pool], kind="stable")].tolist(), size)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _cut(self, clips: list[int], size: BatchSize) -> list[list[int]]:
        """Cut `clips`, sorted by length, into batches."""
        batches: list[list[int]] = []
        for clip in clips:
            if not batches or len(batches[-1]) + 1 > size.fitting(int(self.lengths[clip])):
                batches.append([])
            batches[-1].append(clip)
        return batches


class RankSampler:
    """Yields one rank's part of each batch, as draws; call `set_epoch` before each pass."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.batches: list[list[int]] = []

    def share(self, batch: list[int]) -> list[int]:
        """This rank's clips of a batch.

        If a batch has fewer clips than there are ranks, the ranks without a clip get its first one.
        """
        return batch[self.rank :: self.world_size] or batch[:1]

    def set_epoch(self, epoch: int, batches: list[list[int]]) -> None:
        self.epoch, self.batches = epoch, batches

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            yield [(index, self.epoch) for index in self.share(batch)]

    def __len__(self) -> int:
        return len(self.batches)
