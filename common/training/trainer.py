"""The training loop, the same for every task: epochs, log, validation, checkpoints, and the end of a run."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from common.config import TrainConfig
from common.data.dataset import RunData
from common.data.loading import grouped, loader_errors, no_batch
from common.distributed.heartbeat import Heartbeat
from common.distributed.preemption import MARKER, TIME_IS_UP, StopFlag, StopNow, write_marker
from common.distributed.ranks import Ranks
from common.signals import SIGNALED
from common.tracking.tracker import Tracker
from common.training.adversary import PART_NAMES
from common.training.diagnosis import check_steps, divergence
from common.training.dry_run import dry_run
from common.training.health import MAX_BAD_STEPS, Health
from common.training.memory import memory_errors
from common.training.meter import Meter, paused, timed
from common.training.saving import Saver
from common.training.schedule import learning_rate, total_steps
from common.training.state import TrainingState
from common.training.step import OptimizerStep
from common.training.task import Task
from common.training.validation import Validation
from common.wording import counted

MEMORY_CURE = (
    "lower trainer.batch_frames or trainer.batch_size and raise trainer.accumulation_steps by the same factor, or use "
    "trainer.precision=bf16"
)


class Trainer:
    """Trains `task` as `config` says; `fit` is the whole run. Creating a Trainer does not access the disk."""

    def __init__(
        self,
        task: Task,
        config: TrainConfig,
        data: RunData,
        state: TrainingState,
        step: OptimizerStep,
        tracker: Tracker,
        ranks: Ranks,
        heartbeat: Heartbeat,
    ) -> None:
        self.task, self.config, self.options = task, config, config.trainer
        self.data, self.state, self.step, self.tracker = data, state, step, tracker
        self.ranks, self.heartbeat, self.device = ranks, heartbeat, ranks.device
        self.run_dir = Path(config.run_dir)
        self.validation = Validation(task, config, data, state, ranks, heartbeat)
        self.saver = Saver(task, config, state, tracker, ranks, heartbeat, data.measure)
        self.health, self.postponed = Health(state.progress.step), False
        self.started = time.monotonic()
        self.stop = StopFlag()
        minutes = self.options.timeout_minutes
        data.loader.waiting = data.val_loader.waiting = lambda: self.stop.waiting(60 * minutes, no_batch(minutes))
        self.stop_reason = 0  # what the ranks agreed on
        self.advised, self.parts, self.val_loss = False, dict[str, float](), float("nan")  # of the latest line
        self.meter = self.new_meter()

    def new_meter(self) -> Meter:
        return Meter([*self.task.objective.part_names, *(PART_NAMES if self.state.adversary else ())])

    # ---- the run ----

    def fit(self) -> int:
        """Train until the epochs, steps or minutes of the config are used up, then validate and save.

        A signal (common/signals.py) ends it earlier, with a checkpoint. Returns the exit status for that signal, or 0.
        """
        first_step = self.state.progress.step
        self.tracker.message(_headline(self))
        self.tracker.config(first_step, dataclasses.asdict(self.config))
        if warning := self.task.warning(self.data.val):
            self.tracker.warning(warning, first_step)
        if self.ranks.is_main:
            (self.run_dir / MARKER).unlink(missing_ok=True)
        try:
            with self.stop, memory_errors(MEMORY_CURE + self.task.memory_option), loader_errors():
                self._run(first_step)
        finally:
            self.data.close()
            self.tracker.close()
        return self.stop_reason if self.stop_reason > SIGNALED else 0

    def _run(self, first_step: int) -> None:
        progress, options = self.state.progress, self.options
        if options.dry_run and not self._is_done():
            self.heartbeat.at("the dry run")
            self.tracker.message(dry_run(self.task.objective, self.data, self.state, options, self.ranks))
        self.tracker.start(first_step, total_steps(options, self.data))
        self._train(first_step)
        if self.meter.steps:
            self._log()
        if progress.step > first_step and not self._signaled():
            self._finish()
        if self._signaled():
            return self._stop_early(first_step)
        if progress.step > first_step:
            self._advise(None)
            self.tracker.message(_end(self))
        else:
            self.tracker.message(_nothing_to_do(self))
        run_time = time.monotonic() - self.started
        self.tracker.scalars(progress.step, progress.epoch, {"run_time": run_time})

    def _train(self, first_step: int) -> None:
        progress, options = self.state.progress, self.options
        if 0 < first_step != progress.validated and first_step % options.val_every_steps == 0 and not self._is_done():
            self._validate_and_save()  # the run ended in the middle of it
        self.meter = self.new_meter()
        with _profiler(self):
            while progress.epoch < options.epochs and not self._is_over():
                self._train_epoch()

    def _train_epoch(self) -> None:
        progress, options = self.state.progress, self.options
        batches = self.data.start_epoch(progress.epoch, progress.done)
        epoch_meter, num_left = self.new_meter(), len(batches)
        is_whole = progress.done == [[*self.data.batch_size, 0]]
        self.step.parallel.train()
        groups = grouped(timed(self.data.loader, lambda: self.meter), options.accumulation_steps)
        while not self._is_done() and (group := self._next(groups)):
            self.heartbeat.at("a step")
            for parameters in self.state.optimizer.param_groups:
                parameters["lr"] = learning_rate(options, progress.epoch, progress.step)
            self.step(group, self.meter, epoch_meter)
            clips = batches[len(batches) - num_left :][: len(group)]
            num_left -= len(group)
            progress.done[-1][-1] += len(group)
            progress.step += 1
            self.state.average.update(progress.step)
            self.tracker.advance()
            self._after_step(clips, epoch_meter)
        self.heartbeat.at("the end of an epoch")
        if num_left:
            return
        if is_whole:  # in a resumed epoch the meter has only the rest
            means = epoch_meter.summary(self.device)
            values = {"train_epoch_loss": means.parts["loss"], "train_epoch_time": means.seconds}
            self.tracker.scalars(progress.step, progress.epoch, values)
        progress.epoch, progress.done = progress.epoch + 1, []

    def _next(self, groups: Iterator[list[Any]]) -> list[Any]:
        """The batches of the next step, once all ranks have theirs; empty at the end of the epoch or of the run."""
        group: list[Any] = []
        self.heartbeat.at("loading data")
        with suppress(StopNow):
            group = next(groups, [])
        self.heartbeat.at("waiting for the data of the other ranks")
        return [] if self._is_over() else group

    def _after_step(self, clips: list[list[int]], epoch_meter: Meter) -> None:
        """Do what is due after a step on batches of `clips`."""
        step, options = self.state.progress.step, self.options
        if step % options.log_every_steps == 0:
            self._log()
        if step % min(options.log_every_steps, MAX_BAD_STEPS) == 0:
            self._check_bad_steps(clips)
        with paused(self.meter, epoch_meter):
            if step % options.val_every_steps == 0:
                self._validate_and_save()
            else:
                self.validation.preview(self.tracker)
        is_due = step % options.checkpoint_every_steps == 0 or self.stop.save_agreed or self.postponed
        if is_due and self.saver.saved_step != step and not self._is_done():
            self.save()

    # ---- the end ----

    def _is_done(self) -> bool:
        """True if the steps or epochs are used up, or validations bring no gain."""
        options, progress = self.options, self.state.progress
        is_over = progress.epoch >= options.epochs or bool(options.max_steps and progress.step >= options.max_steps)
        return is_over or _has_stalled(self)

    def _is_over(self) -> bool:
        if self._is_done():
            return True
        if self.ranks.is_main:  # clocks differ, but all ranks must stop and save at the same step
            self._check_clock()
        return self._signaled() or self.stop_reason == TIME_IS_UP

    def _check_clock(self) -> None:
        if _have_passed(self.options.max_minutes, self.started):
            self.stop.set(TIME_IS_UP)
        if _have_passed(self.options.checkpoint_every_minutes, self.saver.saved_at):
            self.stop.save_wanted, self.saver.saved_at = True, time.monotonic()

    def _signaled(self) -> bool:
        """True if a signal asks the run to end; all ranks must call it the same number of times."""
        self.stop_reason = max(self.stop_reason, self.stop.agreed())
        return self.stop_reason > SIGNALED

    def _stop_early(self, first_step: int) -> None:
        """Do only what must be done before the machine is taken away."""
        step = self.state.progress.step
        saved = ""
        if step > first_step:
            if self.saver.saved_step != step:
                self.saver.save(int(self.step.bad_steps), self.health.trusted)
            saved = ", saved"
        name = signal.Signals(self.stop_reason - SIGNALED).name
        self.tracker.message(f"stopped by {name} at step {step}{saved}; run the same command to continue")
        if self.ranks.is_main:
            write_marker(self.run_dir, self.stop_reason, step)

    def _check_bad_steps(self, batches: list[list[int]]) -> None:
        """Raise a UserError after too many bad steps; `batches` are those of the last. It waits for the device."""
        progress = self.state.progress
        progress.bad_steps = int(self.step.bad_steps)
        clips = [self.data.train.clips[index] for batch in batches for index in batch]
        check_steps(progress, clips, self.parts.get("loss", 0.0), self.health, self.saver.directory)

    # ---- log, validation, checkpoints ----

    def _log(self) -> None:
        """Write a line of the log. Its time starts at the previous line, so it includes waiting for data."""
        meter, self.meter = self.meter, self.new_meter()
        progress, scaler = self.state.progress, self.state.scaler
        means = meter.summary(self.device)
        rate, norm = self.state.optimizer.param_groups[0]["lr"], float(meter.grad_norm)
        per_second = means.items / means.seconds
        values = {
            **{f"train_{name}": value for name, value in means.parts.items()},
            "train_items_per_sec": per_second,
            "train_iter_time": means.seconds / meter.steps,
            "padding_share": means.padding_share,
            "data_wait_share": meter.data_wait / means.seconds,
            "learning_rate": rate,
            "grad_norm": norm,
            "skipped_steps": int(meter.skipped),
        }
        if scaler.is_enabled():
            values["loss_scale"] = scaler.get_scale()
        speed = f"{per_second:,.0f} {self.task.item_name}/s"
        line = f"loss {means.parts['loss']:.4f} grad {norm:.2f} lr {rate:.1e} {speed}"
        self.tracker.scalars(progress.step, progress.epoch, values, line)
        self.parts = means.parts
        self.health.see(progress.step, means.parts["loss"])
        self._advise(progress.step)

    def _advise(self, step: int | None) -> None:
        if not self.advised and (advice := self.task.objective.advice(step, self.parts)):
            self.advised = True
            self.tracker.warning(advice, self.state.progress.step)

    def validate(self) -> bool:
        """Log a validation and keep the best checkpoint; return whether it is the best."""
        progress, meter = self.state.progress, Meter(self.task.objective.part_names)
        found = self.validation.run(meter, self.tracker, self._signaled)
        if found is None:
            return False
        self.tracker.message(f"step {progress.step:>7,}  {found.line}")
        self.tracker.scalars(progress.step, progress.epoch, found.values)
        progress.validated, self.val_loss = progress.step, found.means.parts["loss"]
        if not self.options.judge:
            return self.saver.keep_best(self.val_loss)
        return found.verdict is not None and self.saver.keep_best(found.verdict.criterion)

    def save(self) -> None:
        """Write a checkpoint of this step, or postpone it until the steps are good again."""
        bad_steps = int(self.step.bad_steps)
        self.postponed, self.stop.save_agreed = bool(bad_steps or self.health.bad_steps), False
        if not self.postponed:
            self.saver.save(bad_steps, self.health.trusted)

    def _validate_and_save(self) -> None:
        self.save()  # first, so that a failure of the validation costs no step
        if self.validate() or self.task.calibrate or self.options.stop_after_no_gain:
            self.save()

    def _finish(self) -> None:
        """Validate and save the last step, unless that was done; refuse to end with ruined weights."""
        if self.state.progress.validated != self.state.progress.step:
            self._validate_and_save()
        if self.postponed and not self.health.is_good(self.val_loss):
            raise divergence(self.val_loss, self.health, self.saver.directory)
        if self.saver.saved_step != self.state.progress.step:
            self.saver.save(int(self.step.bad_steps), self.health.trusted)


def _have_passed(minutes: float | None, since: float) -> bool:
    return minutes is not None and time.monotonic() - since > 60 * minutes


@contextmanager
def _profiler(trainer: Trainer) -> Iterator[None]:
    if not trainer.options.profile:
        yield
        return
    with torch.profiler.profile() as profile:
        yield
    if trainer.ranks.is_main:
        trainer.tracker.message(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))
        profile.export_chrome_trace(str(trainer.run_dir / "profile.json"))


def _headline(trainer: Trainer) -> str:
    parameters = sum(p.numel() for p in trainer.state.model.parameters())
    return (
        f"{trainer.task.spec.name}: {counted(parameters, 'parameter')}, "
        f"{counted(len(trainer.data.train), 'training clip')}, "
        f"{counted(len(trainer.data.val), 'validation clip')}, {trainer.ranks.world_size} x {trainer.device}, "
        f"{trainer.options.precision}, in {trainer.run_dir}"
    )


def _end(trainer: Trainer) -> str:
    step = trainer.state.progress.step
    then = trainer.task.then.format(run_dir=trainer.run_dir, step=step)
    longer = ""
    if trainer.stop_reason == TIME_IS_UP:
        longer = " because trainer.max_minutes are over; to train longer, run the same command again"
    elif _has_stalled(trainer):
        longer = f" because {_stalled(trainer)}"
    return f"finished at step {step}{longer}; {then}"


def _nothing_to_do(trainer: Trainer) -> str:
    if _has_stalled(trainer):
        return f"nothing to do, because {_stalled(trainer)}; or choose another run_dir"
    limits = "trainer.max_minutes" if trainer.stop_reason == TIME_IS_UP else "trainer.epochs or max_steps"
    return f"nothing to do: raise {limits}, or choose another run_dir"


def _has_stalled(trainer: Trainer) -> bool:
    patience = trainer.options.stop_after_no_gain
    return patience is not None and trainer.state.progress.no_gain >= patience


def _stalled(trainer: Trainer) -> str:
    progress, patience = trainer.state.progress, trainer.options.stop_after_no_gain
    step = f", of step {progress.best_step}" if progress.best_step >= 0 else ""  # earlier versions did not store it
    return (
        f"{counted(progress.no_gain, 'validation')} in a row brought no gain (trainer.stop_after_no_gain={patience}); "
        f"the best is checkpoints/best.pt{step}; to train longer, raise the limit or set it to "
        "null, and run the same command again"
    )
