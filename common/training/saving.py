"""Writes the checkpoints of a run: those of steps, and the best one."""

from __future__ import annotations

import os
import time
from pathlib import Path

from common.checkpoint import files
from common.config import TrainConfig
from common.distributed.heartbeat import Heartbeat
from common.distributed.ranks import Ranks, barrier, gather
from common.files import make_directory
from common.tracking.tracker import Tracker
from common.training.state import TrainingState
from common.training.task import Task


class Saver:
    """The checkpoints of one run. All ranks must call `save` and `keep_best` at the same steps; rank 0 writes."""

    def __init__(
        self, task: Task, config: TrainConfig, state: TrainingState, tracker: Tracker, ranks: Ranks,
        heartbeat: Heartbeat, measure: int,
    ) -> None:  # fmt: skip
        self.task, self.config, self.state, self.tracker = task, config, state, tracker
        self.ranks, self.heartbeat = ranks, heartbeat
        self.directory = Path(config.run_dir) / "checkpoints"
        self.saved_at = time.monotonic()
        self.measure = measure  # of the validation loss: on what, and how
        self.saved_step = self.best_step = -1  # the latest that this process wrote
        progress = state.progress
        self.another_measure = progress.best_measure not in (0, measure)
        if self.another_measure:
            tracker.message("the validation data or its loss has changed: the best checkpoint is chosen anew")
            progress.best_loss, progress.no_gain = float("inf"), 0

    def save(self, bad_steps: int, trusted: int) -> None:
        """Write a checkpoint of this step, after `bad_steps` bad ones.

        Remove the oldest checkpoints, but not the newest of a step up to `trusted`.
        """
        progress = self.state.progress
        progress.bad_steps = bad_steps
        name = files.FILE_NAME.format(progress.step)
        if self.best_step != progress.step:
            self._write(name)
        elif self.ranks.is_main:  # this state was just written as the best
            files.link(self.directory / files.BEST, self.directory / name)
        if self.ranks.is_main:
            files.prune(self.directory, self.config.trainer.keep_last, trusted)
        self.saved_at, self.saved_step = time.monotonic(), progress.step

    def keep_best(self, loss: float) -> bool:
        """Write this state as the best one if its loss, or the criterion of its audio, is the lowest.

        Return whether it is; otherwise count a validation without a gain.
        """
        progress = self.state.progress
        progress.no_gain += 1
        if not loss < progress.best_loss:  # as for NaN
            return False
        best = self.directory / files.BEST
        if self.another_measure and self.ranks.is_main and best.exists():
            os.replace(best, best.with_name(f"best_until_{progress.step:08d}.pt"))
        self.another_measure = False
        progress.best_loss, progress.best_measure = loss, self.measure
        progress.best_step, progress.no_gain, self.best_step = progress.step, 0, progress.step
        self._write(files.BEST)
        return True

    def _write(self, name: str) -> None:
        self.heartbeat.at("saving")
        rng = gather(self.state.rng())
        if self.ranks.is_main:
            if not self.directory.is_dir():
                make_directory(self.directory, "run_dir")
                self.tracker.warning(f"{self.directory} was removed, with its checkpoints", self.state.progress.step)
            files.save(self.directory / name, self.state.checkpoint(self.task, self.config, rng))
        barrier()
