"""Validation: the loss on the validation set, then the task's calibration, pictures and audio.

It uses the averaged weights if the run keeps them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from common.config import TrainConfig
from common.data.dataset import RunData
from common.distributed.heartbeat import Heartbeat
from common.distributed.ranks import Ranks, broadcast_buffers
from common.ops.packed import forget_packed
from common.ops.precision import autocast
from common.tracking.tracker import Tracker
from common.training.meter import Meter, Summary
from common.training.state import TrainingState
from common.training.step import to_device
from common.training.task import Task


class Validation:
    """Each `run` draws the same random numbers, and does not affect those of training."""

    def __init__(
        self, task: Task, config: TrainConfig, data: RunData, state: TrainingState, ranks: Ranks, heartbeat: Heartbeat
    ) -> None:
        self.task, self.config, self.data, self.state = task, config, data, state
        self.ranks, self.heartbeat, self.device = ranks, heartbeat, ranks.device

    def run(self, meter: Meter, tracker: Tracker, interrupted: Callable[[], bool]) -> Summary | None:
        """Means over the validation set, or None once `interrupted` returns True; all ranks call that equally often."""
        model = self.state.model
        broadcast_buffers(model)  # all ranks validate the model that rank 0 saves
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        model.eval()
        with torch.no_grad(), self.state.average.in_place():
            if not self._measure(meter, generator, interrupted):
                model.train()
                return None
            means = meter.summary(self.device)
            self.heartbeat.at("the report")
            if self.ranks.is_main:
                if self.task.calibrate is not None:
                    self.task.calibrate(model, self.data.val, generator)
                self.task.report(model, self.data.val, tracker, self.state.progress.step, generator)
                forget_packed(model)  # the weights are about to change, and training needs the memory
        model.train()
        return means

    def _measure(self, meter: Meter, generator: torch.Generator, interrupted: Callable[[], bool]) -> bool:
        batches = iter(self.data.val_loader)
        for _ in range(self.data.num_val_batches):
            self.heartbeat.at("validation")
            if interrupted():
                return False
            if (batch := next(batches, None)) is not None:
                with autocast(self.device, self.config.trainer.precision):
                    on_device = to_device(batch, self.device)
                    meter.add(self.task.objective(self.state.model, on_device, None, generator))
        return True
