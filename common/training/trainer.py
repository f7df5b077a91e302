"""The training loop, the same for every task: AMP, DDP, accumulation, clipping, validation, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import time
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from common.checkpoint import files as checkpoints
from common.checkpoint.initialize import initialize
from common.config import TrainConfig
from common.data.batching import BatchPlan, BatchSize, RankSampler
from common.data.loading import close_loader, grouped, loader_errors, make_loader
from common.distributed import ranks as distributed
from common.distributed.heartbeat import Peers
from common.distributed.preemption import MARKER, SIGNALS, TIME_IS_UP, StopFlag, write_marker
from common.distributed.ranks import Ranks
from common.errors import UserError, make_directory
from common.ops.packed import forget_packed
from common.ops.precision import autocast, set_tf32
from common.tracking.tracker import Tracker
from common.training.ema import MovingAverage
from common.training.memory import memory_errors
from common.training.meter import Window, timed
from common.training.schedule import learning_rate
from common.training.state import Progress, TrainingState
from common.training.task import Task

MAX_NAMED = 8  # clips that a diagnosis names before it counts
MAX_BAD_STEPS = 20  # in a row, after the loss scaler has had its chances
MEMORY_CURE = (
    "lower trainer.batch_frames or trainer.batch_size (and raise trainer.accumulation_steps by as much), use "
    "trainer.precision=bf16, or for WaveGlow trainer.checkpoint_activations=true"
)


class Trainer:
    """Trains `task` as `config` says; `fit` is the whole run."""

    def __init__(self, task: Task, config: TrainConfig, ranks: Ranks, peers: Peers | None = None) -> None:
        self.task, self.config, self.ranks = task, config, ranks
        self.options = config.trainer
        self.peers = peers or Peers(ranks, self.options.timeout_minutes)
        self.run_dir = Path(config.run_dir)
        self.device = ranks.device
        make_directory(self.run_dir / "checkpoints", "run_dir")
        if self.options.fresh and ranks.is_main:
            self._remove_earlier_run()
        set_tf32(self.options.tf32)
        torch.manual_seed(config.seed)  # the same initial weights on every rank
        self.model = task.build_model().to(self.device)
        torch.manual_seed(config.seed + ranks.rank)  # but dropout of its own
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "fp16")
        self.train_data, self.val_data = task.datasets()
        names = "\n".join(clip.path for clip in self.train_data.clips)
        self.state = TrainingState(
            task=task,
            config=config,
            model=self.model,
            optimizer=self.optimizer,
            scaler=self.scaler,
            average=MovingAverage(self.model, self.options.ema_decay),
            progress=Progress(data=[config.seed, len(self.train_data), zlib.crc32(names.encode())]),
        )
        self.peers.at("its start, after the data")
        self.plan = BatchPlan(self.train_data.lengths, config.seed)
        self.batch_size = BatchSize.of(self.options.batch_size, self.options.batch_frames, ranks.world_size)
        self._check_lengths()
        self.sampler = RankSampler(ranks.rank, ranks.world_size)
        self.loader = self._loader(self.train_data, self.sampler)
        self.val_sampler = RankSampler(0, 1)
        val_batches, self.num_val_batches = self._val_batches()
        self.val_sampler.set_epoch(0, val_batches)
        self.val_loader = self._loader(self.val_data, self.val_sampler)
        if not self._resume() and config.init_from:
            note = initialize(self.model, task, config.audio, config.init_from, config.warm_start)
            self.state.average.load({})
            if ranks.is_main:
                print(note, flush=True)
        self.peers.at("its start, after the weights")
        self.bad_steps = torch.tensor(self.progress.bad_steps, device=self.device)  # progress.bad_steps as of now
        self.parallel = self._wrap()
        self.tracker = Tracker(
            self.run_dir, config.audio.sample_rate, self.progress.step, ranks.is_main, self.options.progress
        )
        self.started = time.monotonic()
        self.stop = StopFlag()
        self.stop_reason = 0  # what the ranks agreed on
        self.best_step: int | None = None  # the step that this process wrote as the best
        self.advised = False
        self.window = self._window()

    @property
    def progress(self) -> Progress:
        return self.state.progress

    # ---- set-up ----

    def _loader(self, data: Any, sampler: RankSampler) -> DataLoader[Any]:
        workers, on_gpu = self.config.data.num_workers, self.device.type == "cuda"
        return make_loader(data, sampler, self.task.collate, workers, on_gpu, self.options.timeout_minutes)

    def _check_lengths(self) -> None:
        """Every clip must fit into a batch."""
        clip = max(range(len(self.train_data)), key=lambda i: self.train_data.lengths[i])
        length = self.train_data.lengths[clip]
        if not self.batch_size.fitting(length):
            raise UserError(
                f"trainer.batch_frames={self.options.batch_frames} is less than the {length} mel frames of "
                f"{self.train_data.clips[clip].where}; raise it, or cut or remove the clip"
            )

    def _val_batches(self) -> tuple[list[list[int]], int]:
        """This rank's share of the validation set, longest clips first, and the number of batches of the rank that has
        most."""
        size = BatchSize.of(self.options.batch_size, self.options.batch_frames, 1)
        batches = BatchPlan(self.val_data.lengths, 0).in_order(size)[::-1]
        shares = [
            batches[rank :: self.ranks.world_size][: self.options.val_batches] for rank in range(self.ranks.world_size)
        ]
        return shares[self.ranks.rank], len(shares[0])

    def _wrap(self) -> nn.Module:
        if self.ranks.world_size == 1:
            return self.model
        devices = [self.ranks.local_rank] if self.device.type == "cuda" else None
        # BatchNorm has statistics of its own on each rank, as in the reference, and validation uses rank 0's averages:
        # with tens of clips on each rank there are thousands of positions, and SyncBatchNorm, which waits for all ranks
        # in every layer, both ways, would buy nothing.
        return DistributedDataParallel(self.model, device_ids=devices, gradient_as_bucket_view=True)

    def _remove_earlier_run(self) -> None:
        """Remove what a run writes, and nothing else."""
        for path in (self.run_dir / "checkpoints").glob("*.pt"):
            path.unlink()
        for name in ("samples", "tensorboard"):
            shutil.rmtree(self.run_dir / name, ignore_errors=True)
        (self.run_dir / "log.jsonl").unlink(missing_ok=True)

    def _resume(self) -> bool:
        """Go on from the newest checkpoint of the run directory; False if there is none."""
        path = distributed.from_main(checkpoints.newest(self.run_dir / "checkpoints") if self.ranks.is_main else None)
        if path is None:
            return False
        self.state.restore(path, self.ranks)
        if self.ranks.is_main:
            print(f"resumed from {path} at step {self.progress.step}", flush=True)
            if self.config.init_from:
                print(f"init_from={self.config.init_from} was for the first start only", flush=True)
        return True

    # ---- the run ----

    def fit(self) -> int:
        """Train until the epochs, steps or minutes of the config are used up, then save and validate.

        SIGTERM and SIGUSR1 end it earlier, with a checkpoint; returns the number of that signal, or 0.
        """
        first_step = self.progress.step
        self.tracker.message(self._headline())
        self.tracker.record(step=first_step, config=dataclasses.asdict(self.config))
        if self.ranks.is_main:
            (self.run_dir / MARKER).unlink(missing_ok=True)
        try:
            with self.stop, memory_errors(MEMORY_CURE), loader_errors():
                self._run(first_step)
        finally:
            for loader in (self.loader, self.val_loader):
                close_loader(loader)
            self.tracker.close()
        return self.stop_reason if self.stop_reason in SIGNALS else 0

    def _run(self, first_step: int) -> None:
        if not self._is_done():
            self._dry_run()
        self.tracker.start(first_step, self._total_steps())
        self.window = self._window()
        with self._profiler():
            while self.progress.epoch < self.options.epochs and not self._is_over():
                self._train_epoch()
        if self.window.steps:
            self._log()
        if self.stop_reason in SIGNALS:
            return self._stop_early(first_step)
        if self.progress.step > first_step:
            if self.progress.step % self.options.val_every_steps:
                self.validate()
            self.save()
        else:
            self.tracker.message("nothing to do: raise trainer.epochs or max_steps, or choose another run_dir")
        run_time = time.monotonic() - self.started
        self.tracker.scalars(self.progress.step, self.progress.epoch, {"run_time": run_time})

    def _dry_run(self) -> None:
        """One pass, forward and back, over the largest batch there can be, so that memory runs out now or never.

        It leaves no trace: neither weights nor averages nor random states move.
        """
        if not self.options.dry_run:
            return
        self.peers.at("the dry run")
        clips = self.sampler.share(self.plan.largest(self.batch_size))
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        rng = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        copies = (0 if self.optimizer.state else 2) + (self.ranks.world_size > 1)  # Adam's state and DDP's buckets
        later = [torch.empty_like(parameter) for parameter in self.model.parameters() for _ in range(copies)]
        self.model.train()
        with self._autocast():
            batch = self.task.collate([self.train_data[(clip, 0)] for clip in clips])
            loss = self.task.loss(self.model, self._to_device(batch)).loss
        loss.backward()
        del later, loss
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        torch.set_rng_state(rng[0])
        frames = max(self.train_data.lengths[clip] for clip in clips)
        text = f"largest batch: {len(clips)} x {frames:,} frames on each rank, fits"
        if rng[1] is not None:
            torch.cuda.set_rng_state(rng[1], self.device)
            peak, total = torch.cuda.max_memory_reserved(self.device), torch.cuda.mem_get_info(self.device)[1]
            text += f": {peak / 2**30:.1f} of {total / 2**30:.1f} GiB"
        self.tracker.message(text)

    def _stop_early(self, first_step: int) -> None:
        """What must be done before a machine is taken away, and no more."""
        if self.progress.step > first_step:
            self.save()
        name = signal.Signals(self.stop_reason).name
        self.tracker.message(f"stopped by {name} at step {self.progress.step}, saved; run the same command to go on")
        if self.ranks.is_main:
            write_marker(self.run_dir, self.stop_reason, self.progress.step)

    @contextmanager
    def _profiler(self) -> Iterator[None]:
        if not self.options.profile:
            yield
            return
        with torch.profiler.profile() as profile:
            yield
        if self.ranks.is_main:
            self.tracker.message(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))
            profile.export_chrome_trace(str(self.run_dir / "profile.json"))

    def _headline(self) -> str:
        parameters = sum(p.numel() for p in self.model.parameters())
        return (
            f"{self.task.name}: {parameters:,} parameters, {len(self.train_data):,} clips to train on, "
            f"{len(self.val_data):,} to validate, {self.ranks.world_size} x {self.device}, {self.options.precision}, "
            f"in {self.run_dir}"
        )

    def _total_steps(self) -> int | None:
        batches = len(self.plan.batches(0, self.batch_size, []))  # with batch_frames about as many in each epoch
        total = self.options.epochs * -(-batches // self.options.accumulation_steps)
        return min(total, self.options.max_steps or total) if self.options.max_minutes is None else None

    def _is_done(self) -> bool:
        """True if the steps or epochs are used up."""
        options, progress = self.options, self.progress
        return progress.epoch >= options.epochs or bool(options.max_steps and progress.step >= options.max_steps)

    def _is_over(self) -> bool:
        if self._is_done():
            return True
        # Clocks differ: all ranks must stop at the same step, so rank 0's counts.
        minutes = (time.monotonic() - self.started) / 60
        if self.options.max_minutes is not None and self.ranks.is_main and minutes > self.options.max_minutes:
            self.stop.set(TIME_IS_UP)
        return self._signalled() or self.stop_reason == TIME_IS_UP

    def _signalled(self) -> bool:
        """True if a signal wants the run to end; all ranks must ask equally often."""
        self.stop_reason = max(self.stop_reason, self.stop.agreed())
        return self.stop_reason in SIGNALS

    def _train_epoch(self) -> None:
        progress, options = self.progress, self.options
        rate = learning_rate(options, progress.epoch)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        batches = self.plan.batches(progress.epoch, self.batch_size, progress.done)
        self.sampler.set_epoch(progress.epoch, batches)
        epoch, num_left = self._window(), len(batches)
        whole = progress.done == [[*self.batch_size, 0]]
        self.parallel.train()
        self.peers.at("loading data")
        for group in grouped(timed(self.loader, lambda: self.window), options.accumulation_steps):
            self.peers.at("a step")
            self.train_step(group, self.window, epoch)
            clips = batches[len(batches) - num_left :][: len(group)]
            num_left -= len(group)
            progress.done[-1][-1] += len(group)
            progress.step += 1
            self.state.average.update(progress.step)
            self.tracker.advance()
            if progress.step % options.log_every_steps == 0:
                self._log()
            if progress.step % min(options.log_every_steps, MAX_BAD_STEPS) == 0:
                self._check_bad_steps(clips)
            if progress.step % options.val_every_steps == 0:
                self.validate(self.window, epoch)
            if self._is_over():
                break
            if progress.step % options.checkpoint_every_steps == 0:
                self.save()
            self.peers.at("loading data")
        self.peers.at("the end of an epoch")
        if num_left:
            return
        if whole:  # of an epoch that was resumed only the rest is known
            means = epoch.summary(self.device)
            values = {"train_epoch_loss": means.parts["loss"], "train_epoch_time": means.seconds}
            self.tracker.scalars(progress.step, progress.epoch, values)
        progress.epoch, progress.done = progress.epoch + 1, []

    def train_step(self, batches: list[Any], *windows: Window) -> None:
        """One optimizer step on one or several batches; without a finite gradient the model stays as it was.

        Nothing in it waits for the device: whether the gradient was finite is decided there.
        """
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.model.buffers()]  # BatchNorm's averages move in the forward pass
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self._no_sync():
                with self._autocast():
                    result = self.task.loss(self.parallel, self._to_device(batch), self.progress.step)
                self.scaler.scale(result.loss / len(batches)).backward()
            for window in windows:
                window.add(result)
        self.scaler.unscale_(self.optimizer)
        limit = self.options.grad_clip_norm or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        finite = torch.isfinite(norm)
        if not self.scaler.is_enabled():  # the scaler tells the optimizer by itself, and lowers its scale
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined] # what fused Adam looks at
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # The fused optimizer does not say that it has written; packed weights (common/packed.py) go by it.
        torch.autograd.graph.increment_version(list(self.model.parameters()))
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(torch.where(finite, buffer, before))
        self.bad_steps = torch.where(finite, 0, self.bad_steps + 1)
        for window in windows:
            window.add_step(norm, finite)

    def _check_bad_steps(self, batches: list[list[int]]) -> None:
        """Waits for the device, so not at every step; `batches` of clips are those of the last one."""
        self.progress.bad_steps = int(self.bad_steps)
        if self.progress.bad_steps > MAX_BAD_STEPS:
            raise UserError(self._diagnosis(batches))

    def _diagnosis(self, batches: list[list[int]]) -> str:
        """What is known of too many bad steps, the last of them on `batches` of clips."""
        rows = [self.train_data.clips[index].where for batch in batches for index in batch]
        listed = ", ".join(rows[:MAX_NAMED]) + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")
        newest = checkpoints.all_steps(self.run_dir / "checkpoints")
        good = f"{newest[-1]} is unharmed" if newest else "there is no checkpoint yet"
        return (
            f"{self.progress.bad_steps} steps in a row without a finite gradient, the last, step "
            f"{self.progress.step}, on the clips {listed}: if it is always these, mend or remove their rows "
            "(scripts/check_dataset.py looks at them all); else lower trainer.learning_rate, set "
            f"trainer.grad_clip_norm, or use trainer.precision=bf16 or fp32; {good}"
        )

    def validate(self, *paused: Window) -> None:
        """Log the validation loss, draw the report, keep the best checkpoint; `paused` do not count the time.

        With trainer.ema_decay all of that is about the averaged weights. A signal cuts it short, without a result.
        """
        window = self._window()
        distributed.broadcast_buffers(self.model)  # every rank validates the model that rank 0 saves
        self.model.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        # The forked random state leaves the training's alone.
        with torch.random.fork_rng(devices), torch.no_grad(), self.state.average.in_place():
            torch.manual_seed(self.config.seed)
            batches = iter(self.val_loader)
            for _ in range(self.num_val_batches):
                self.peers.at("validation")
                if self._signalled():
                    self.model.train()
                    return
                if (batch := next(batches, None)) is not None:
                    with self._autocast():
                        window.add(self.task.loss(self.model, self._to_device(batch)))
            means = window.summary(self.device)
            self.peers.at("the report")
            if self.ranks.is_main:
                self.task.calibrate(self.model, self.val_data)
                self.task.report(self.model, self.val_data, self.tracker, self.progress.step)
                forget_packed(self.model)  # the weights change, and memory is for training
        self.model.train()
        progress = self.progress
        self.tracker.message(f"step {progress.step:>7,}  validation loss {means.parts['loss']:.4f}")
        values = {f"val_{name}": value for name, value in means.parts.items()}
        values["val_items_per_sec"] = means.items / means.seconds
        self.tracker.scalars(progress.step, progress.epoch, values)
        if means.parts["loss"] < progress.best_loss:
            progress.best_loss, self.best_step = means.parts["loss"], progress.step
            self._write(checkpoints.BEST)
        for other in paused:
            other.start += time.monotonic() - window.start

    # ---- small parts ----

    def _window(self) -> Window:
        return Window(self.task.part_names)

    def _no_sync(self) -> AbstractContextManager[None]:
        """Gradients of all but the last accumulated batch stay on their rank."""
        return self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) else nullcontext()

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.options.precision)

    def _to_device(self, batch: Any) -> Any:
        return type(batch)(*(tensor.to(self.device, non_blocking=True) for tensor in batch))

    def _log(self) -> None:
        """A line of the log; its time counts from the last one, so that waiting for data is in it."""
        window, self.window = self.window, self._window()
        means = window.summary(self.device)
        rate, norm = self.optimizer.param_groups[0]["lr"], float(window.grad_norm)
        per_second = means.items / means.seconds
        values = {
            **{f"train_{name}": value for name, value in means.parts.items()},
            "train_items_per_sec": per_second,
            "train_iter_time": means.seconds / window.steps,
            "padding_share": means.padding_share,
            "data_wait_share": window.data_wait / means.seconds,
            "learning_rate": rate,
            "grad_norm": norm,
            "skipped_steps": int(window.skipped),
        }
        if self.scaler.is_enabled():
            values["loss_scale"] = self.scaler.get_scale()
        line = f"loss {means.parts['loss']:.4f} grad {norm:.2f} lr {rate:.1e} {per_second:,.0f} {self.task.item_name}/s"
        self.tracker.scalars(self.progress.step, self.progress.epoch, values, line)
        if not self.advised and (advice := self.task.advice(self.progress.step, means.parts)):
            self.advised = True
            self.tracker.warning(advice, self.progress.step)

    def save(self) -> None:
        """Write a checkpoint of this step and drop the oldest."""
        directory, name = self.run_dir / "checkpoints", checkpoints.FILE_NAME.format(self.progress.step)
        if self.best_step != self.progress.step:
            self._write(name)
        elif self.ranks.is_main:  # this very state was just written as the best
            checkpoints.link(directory / checkpoints.BEST, directory / name)
        if self.ranks.is_main:
            checkpoints.prune(directory, self.options.keep_last)

    def _write(self, name: str) -> None:
        self.peers.at("saving")
        self.progress.bad_steps = int(self.bad_steps)
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        every_rng = distributed.gather(rng)
        if self.ranks.is_main:
            checkpoints.save(self.run_dir / "checkpoints" / name, self.state.contents(every_rng))
        distributed.barrier()
