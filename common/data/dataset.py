"""The data of a run: the data sets of its task, batched, divided between the ranks and loaded by worker processes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from common.config import TrainConfig
from common.data.batching import BatchPlan, BatchSize, Done, Draw, RankSampler
from common.data.filelist import Clip
from common.data.loading import Loader, num_workers
from common.distributed.ranks import Ranks
from common.errors import UserError


class ClipDataset(Protocol):
    """Maps draws to items. Batches are planned from `lengths`, which are in mel frames."""

    @property
    def clips(self) -> Sequence[Clip]: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    def __getitem__(self, draw: Draw) -> Any: ...

    def __len__(self) -> int: ...


class RunData:
    """Training and validation data of one run, as one rank sees it."""

    def __init__(
        self,
        datasets: tuple[ClipDataset, ClipDataset],
        collate: Callable[[list[Any]], Any],
        config: TrainConfig,
        ranks: Ranks,
    ) -> None:
        self.train, self.val = datasets
        self.collate, self.config, self.ranks = collate, config, ranks
        options = config.trainer
        self.plan = BatchPlan(self.train.lengths, config.seed)
        self.batch_size = BatchSize.of(options.batch_size, options.batch_frames, ranks.world_size)
        self._check_lengths()
        self.sampler, val_sampler = RankSampler(ranks.rank, ranks.world_size), RankSampler(0, 1)
        val_batches, self.num_val_batches = self._val_batches()
        val_sampler.set_epoch(0, val_batches)
        workers = num_workers(config.data.num_workers, self._batch_bytes, ranks.local_world_size)
        self.loader = self._loader(self.train, self.sampler, workers)
        self.val_loader = self._loader(self.val, val_sampler, workers)

    @property
    def identity(self) -> list[int]:
        """Seed, number and hash of the training clips. A position in an epoch is valid only for the same values."""
        names = "\n".join(clip.path for clip in self.train.clips)
        return [self.config.seed, len(self.train), zlib.crc32(names.encode())]

    @property
    def measure(self) -> int:
        """Identifies what chooses the best validation: the clips and the options that change its loss or its audio."""
        options = self.config.trainer
        clips = [
            (clip.path, clip.text, frames, *filter(None, [clip.speaker]))
            for clip, frames in zip(self.val.clips, self.val.lengths, strict=True)
        ]
        number = options.val_batches and [options.val_batches, options.batch_size, options.batch_frames]
        task = {key: value for key, value in self.config.task.items() if not key.startswith("judge_")}
        measure = repr((clips, task, self.config.seed, number))
        if options.judge:
            measure += repr((self.config.task, self.config.data.sentences))
        return zlib.crc32(measure.encode())

    def start_epoch(self, epoch: int, done: Done) -> list[list[int]]:
        """Let `loader` yield the remaining batches of an epoch. Return the clips of each, over all ranks.

        See BatchPlan.batches.
        """
        batches = self.plan.batches(epoch, self.batch_size, done)
        self.sampler.set_epoch(epoch, batches)
        return batches

    def largest_batch(self) -> list[int]:
        """This rank's clips of the largest batch that can occur."""
        return self.sampler.share(self.plan.largest(self.batch_size))

    def close(self) -> None:
        """End the loader processes."""
        for loader in (self.loader, self.val_loader):
            loader.close()

    def _loader(self, data: ClipDataset, sampler: RankSampler, workers: int) -> Loader:
        return Loader(data, sampler, self.collate, workers, pin_memory=self.ranks.device.type == "cuda")

    def _batch_bytes(self) -> int:
        batch = self.collate([self.train[(clip, 0)] for clip in self.largest_batch()])
        return sum(tensor.nbytes for tensor in batch)

    def _check_lengths(self) -> None:
        """Raise a UserError if a training item does not fit into a batch."""
        longest = max(range(len(self.train)), key=lambda i: self.train.lengths[i])
        length = self.train.lengths[longest]
        if not self.batch_size.fitting(length):
            raise UserError(
                f"trainer.batch_frames={self.config.trainer.batch_frames} is less than the {length} mel frames of "
                f"{self.train.clips[longest].where}, which no batch could hold; set trainer.batch_frames={length} or "
                "more, or lower data.segment_length if the model trains on segments, or else shorten the clip"
            )

    def _val_batches(self) -> tuple[list[list[int]], int]:
        """This rank's validation batches, longest clips first, and the number of batches of the rank with the most."""
        options, num_ranks = self.config.trainer, self.ranks.world_size
        size = BatchSize.of(options.batch_size, options.batch_frames, 1)
        batches = BatchPlan(self.val.lengths, 0).in_order(size)[::-1]
        shares = [batches[rank::num_ranks][: options.val_batches] for rank in range(num_ranks)]
        return shares[self.ranks.rank], len(shares[0])
