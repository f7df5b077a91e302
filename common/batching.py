"""Which clips make which batch of an epoch, a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from common.task import Draw

POOL_BATCHES = 16  # clips are sorted by length within this many batches: little padding, still a random order

Done = list[list[int]]  # [[global batch size, batches done with it], ...] of the epoch in progress


class BatchPlan:
    """The batches of every epoch, over all ranks together; each rank then takes its share.

    Because the plan depends on nothing else, a run that resumes in mid-epoch, also with another number of ranks or
    another batch size, takes exactly the clips that are left.
    """

    def __init__(self, lengths: Sequence[int], seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.seed = seed

    def batches(self, epoch: int, global_batch_size: int, done: Done) -> list[list[int]]:
        """Clip indices of each batch of `epoch` that is left once the batches in `done` are done.

        Adds an entry of no batches to `done` where its last one is not of this batch size; the caller counts there.
        """
        if not done or done[-1][0] != global_batch_size:
            done.append([global_batch_size, 0])
        left = np.arange(len(self.lengths))
        for batch_size, count in done[:-1]:
            for batch in self._group(left, epoch, batch_size)[:count]:
                left = left[~np.isin(left, batch)]
        return self._group(left, epoch, global_batch_size)[done[-1][1] :]

    def _group(self, clips: np.ndarray, epoch: int, batch_size: int) -> list[list[int]]:
        rng = np.random.default_rng((self.seed, epoch))
        shuffled = rng.permutation(clips)
        batches = []
        for start in range(0, len(shuffled), POOL_BATCHES * batch_size):
            pool = shuffled[start : start + POOL_BATCHES * batch_size]
            pool = pool[np.argsort(self.lengths[pool], kind="stable")]
            batches += [pool[i : i + batch_size].tolist() for i in range(0, len(pool), batch_size)]
        return [batches[i] for i in rng.permutation(len(batches))]


class RankSampler:
    """One rank's share of a list of batches, as draws; `set_epoch` before each pass."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.batches: list[list[int]] = []

    def set_epoch(self, epoch: int, batches: list[list[int]]) -> None:
        self.epoch, self.batches = epoch, batches

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in self.batches:
            # A last batch with fewer clips than ranks is filled up with its own, so that every rank has work.
            share = batch[self.rank :: self.world_size] or batch[:1]
            yield [(index, self.epoch) for index in share]

    def __len__(self) -> int:
        return len(self.batches)
