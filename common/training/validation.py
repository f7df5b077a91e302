"""Validation: the loss on the validation set, then the task's calibration, pictures and audio, which may be judged.

It uses the averaged weights if the run keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch

from common.config import TrainConfig
from common.data.dataset import RunData
from common.distributed.heartbeat import Heartbeat
from common.distributed.preemption import StopNow
from common.distributed.ranks import Ranks, broadcast_buffers, from_main
from common.errors import first_line
from common.ops.packed import forget_packed
from common.ops.precision import autocast
from common.tracking.tracker import Tracker
from common.training.meter import Meter, Summary
from common.training.state import TrainingState
from common.training.step import to_device
from common.training.task import Speech, Task, Verdict

FIRST_PREVIEW = 120.0  # seconds


class Found(NamedTuple):
    """The result of a validation, the same on all ranks."""

    means: Summary
    verdict: Verdict | None  # on the audio; None if it is not judged, or could not be

    @property
    def values(self) -> dict[str, float]:
        """For the log."""
        values = {f"val_{name}": value for name, value in self.means.parts.items()}
        values["val_items_per_sec"] = self.means.items / self.means.seconds
        if self.verdict is not None:
            values.update({f"val_{name}": value for name, value in self.verdict.measures.items()})
            values["val_criterion"] = self.verdict.criterion
        return values

    @property
    def line(self) -> str:
        """For the console."""
        verdict = self.verdict
        judged = "" if verdict is None else "".join(f" {name} {value:.2f}" for name, value in verdict.measures.items())
        return f"validation loss {self.means.parts['loss']:.4f}{judged}"


class Validation:
    """Each `run` and `preview` draws the same random numbers, and does not affect those of training."""

    def __init__(
        self, task: Task, config: TrainConfig, data: RunData, state: TrainingState, ranks: Ranks, heartbeat: Heartbeat
    ) -> None:
        self.task, self.config, self.data, self.state = task, config, data, state
        self.ranks, self.heartbeat, self.device = ranks, heartbeat, ranks.device
        self.started, self.preview_after, self.has_run = time.monotonic(), FIRST_PREVIEW, False

    def run(self, meter: Meter, tracker: Tracker, interrupted: Callable[[], bool]) -> Found | None:
        """Validate; None once `interrupted` returns True, which all ranks call equally often."""
        model, self.has_run, speech = self.state.model, True, list[Speech]()
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
                speech = self._report(tracker, generator)
        model.train()
        verdict = None
        if self.config.trainer.judge:
            self.heartbeat.at("judging the audio")
            verdict = from_main(self._verdict(speech, tracker))
        return Found(means, verdict)

    def preview(self, tracker: Tracker) -> None:
        """Make the report alone, 2, 4, 8, ... minutes after the start, until the first validation.

        Only rank 0 makes it, by its own clock: it changes nothing that is trained or saved.
        """
        elapsed = time.monotonic() - self.started
        if self.has_run or elapsed < self.preview_after or not self.ranks.is_main:
            return
        self.preview_after = 2 * elapsed
        self.heartbeat.at("the report")
        model = self.state.model
        model.eval()
        with torch.no_grad(), self.state.average.in_place():
            self._report(tracker, torch.Generator(self.device).manual_seed(self.config.seed))
        model.train()
        tracker.message(f"step {self.state.progress.step:>7,}  plots and audio of this step are in {tracker.samples}")

    def _verdict(self, speech: Sequence[Speech], tracker: Tracker) -> Verdict | None:
        if self.task.judge is None or not speech:  # another rank, or the report failed
            return None
        start, step = time.monotonic(), self.state.progress.step
        try:
            verdict = self.task.judge(speech)
        except Exception as error:  # a judge is not worth a run either
            kind = type(error).__name__
            tracker.warning(f"the audio of step {step} could not be judged ({kind}: {first_line(error)})", step)
            return None
        return verdict._replace(measures={**verdict.measures, "judge_time": time.monotonic() - start})

    def _report(self, tracker: Tracker, generator: torch.Generator) -> list[Speech]:
        model, step, speech = self.state.model, self.state.progress.step, list[Speech]()
        try:
            speech += self.task.report(model, self.data.val, tracker, step, generator)
        except Exception as error:  # whatever it is, pictures and sounds are not worth a run
            kind = type(error).__name__
            tracker.warning(f"the plots and audio of step {step} failed ({kind}: {first_line(error)})", step)
        forget_packed(model)  # the weights are about to change, and training needs the memory
        return speech

    def _measure(self, meter: Meter, generator: torch.Generator, interrupted: Callable[[], bool]) -> bool:
        batches = iter(self.data.val_loader)
        for _ in range(self.data.num_val_batches):
            self.heartbeat.at("validation")
            batch = None
            with suppress(StopNow):
                batch = next(batches, None)
            if interrupted():
                return False
            if batch is not None:
                with autocast(self.device, self.config.trainer.precision):
                    on_device = to_device(batch, self.device)
                    meter.add(self.task.objective(self.state.model, on_device, None, generator))
        return True
