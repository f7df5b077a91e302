"""The training loop, the same for every task: AMP, DDP, accumulation, clipping, validation, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from common import checkpoint as checkpoints
from common import distributed
from common.batching import BatchPlan, Done, RankSampler
from common.config import TrainConfig
from common.distributed import Ranks
from common.errors import UserError, make_directory
from common.initialize import initialize
from common.mels import audio_differences
from common.precision import autocast, set_tf32
from common.preemption import MARKER, SIGNALS, TIME_IS_UP, StopFlag, write_marker
from common.schedule import learning_rate
from common.task import Loss, Task
from common.tracker import Tracker

MAX_NAMED = 8  # clips that a diagnosis names before it counts
MAX_BAD_STEPS = 20  # in a row, after the loss scaler has had its chances


@dataclasses.dataclass
class Progress:
    """How far training has come; part of every checkpoint."""

    step: int = 0  # optimizer steps
    epoch: int = 0  # the one in progress, from 0
    done: Done = dataclasses.field(default_factory=list)  # batches of it that are done
    data: list[int] = dataclasses.field(default_factory=list)  # seed, number and hash of the clips `done` refers to
    best_loss: float = float("inf")
    bad_steps: int = 0  # steps in a row without a finite gradient


class Window:
    """Sums over some steps of this rank: what a line of the log is made from."""

    def __init__(self, part_names: Sequence[str]) -> None:
        self.start = time.monotonic()
        self.steps = self.items = self.skipped = 0
        self.grad_norm = 0.0
        self.part_names = part_names
        self.parts = [torch.zeros(()) for _ in part_names]  # weighted by items

    def add(self, loss: Loss) -> None:
        self.items += loss.num_items
        for i, name in enumerate(self.part_names):
            self.parts[i] = self.parts[i] + loss.parts[name].detach().float() * loss.num_items

    def means(self, device: torch.device) -> tuple[dict[str, float], float, float]:
        """({part: mean over the items of all ranks}, their number, seconds); every rank must call it."""
        sums = [float(self.items), *map(float, self.parts)]  # waits for the device, so it comes before the clock
        seconds = time.monotonic() - self.start
        items, *sums = distributed.sum_over_ranks(sums, device)
        return {name: value / max(items, 1) for name, value in zip(self.part_names, sums, strict=True)}, items, seconds


class Trainer:
    """Trains `task` as `config` says; `fit` is the whole run."""

    def __init__(self, task: Task, config: TrainConfig, ranks: Ranks) -> None:
        self.task, self.config, self.ranks = task, config, ranks
        self.options = config.trainer
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
            self.model.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.precision == "fp16")
        self.train_data, self.val_data = task.datasets()
        names = "\n".join(clip.path for clip in self.train_data.clips)
        self.progress = Progress(data=[config.seed, len(self.train_data), zlib.crc32(names.encode())])
        self.plan = BatchPlan(self.train_data.lengths, config.seed)
        self.global_batch_size = self.options.batch_size * ranks.world_size
        self.sampler = RankSampler(ranks.rank, ranks.world_size)
        self.loader = self._loader(self.train_data, self.sampler)
        self.val_sampler = RankSampler(0, 1)
        val_batches, self.num_val_batches = self._val_batches()
        self.val_sampler.set_epoch(0, val_batches)
        self.val_loader = self._loader(self.val_data, self.val_sampler)
        if not self._resume() and config.init_from:
            note = initialize(self.model, task, config.audio, config.init_from, config.warm_start)
            if ranks.is_main:
                print(note, flush=True)
        self.parallel = self._wrap()
        self.tracker = Tracker(
            self.run_dir, config.audio.sample_rate, self.progress.step, ranks.is_main, self.options.progress
        )
        self.started = time.monotonic()
        self.stop = StopFlag()
        self.stop_reason = 0  # what the ranks agreed on
        self.best_step: int | None = None  # the step that this process wrote as the best
        self.window = self._window()

    # ---- set-up ----

    def _loader(self, data: Any, sampler: RankSampler) -> DataLoader[Any]:
        workers = min(self.config.data.num_workers, os.cpu_count() or 1)  # more would be in each other's way
        return DataLoader(
            data,
            batch_sampler=sampler,
            collate_fn=self.task.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # its own: starting an epoch must not move the training's random state
        )

    def _val_batches(self) -> tuple[list[list[int]], int]:
        """This rank's share of the validation set, longest clips first, so that none is padded much; and the number of
        batches of the rank that has most."""
        lengths = self.val_data.lengths
        order = sorted(range(len(self.val_data)), key=lambda i: -lengths[i])
        size = self.options.batch_size
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        shares = [
            batches[rank :: self.ranks.world_size][: self.options.val_batches] for rank in range(self.ranks.world_size)
        ]
        return shares[self.ranks.rank], len(shares[0])

    def _wrap(self) -> nn.Module:
        if self.ranks.world_size == 1:
            return self.model
        devices = [self.ranks.local_rank] if self.device.type == "cuda" else None
        # BatchNorm has statistics of its own on each rank, as in the reference; rank 0's running averages are kept.
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
        state = checkpoints.load(path)
        if state["model_name"] != self.task.name:
            raise UserError(f"run_dir={self.run_dir} holds a {state['model_name']}; choose another run_dir")
        if differences := audio_differences(self.config.audio, state["audio_config"]):
            raise UserError(f"run_dir={self.run_dir}: {'; '.join(differences)}; choose another run_dir")
        if state["text"] != self.task.text_state():
            raise UserError(f"run_dir={self.run_dir}: other symbols or cleaners than data's; choose another run_dir")
        if "optimizer" not in state:
            raise UserError(
                f"checkpoint {path} holds weights alone; start from it with init_from={path} and a new run_dir"
            )
        cure = "use the options it was trained with, or another run_dir"
        checkpoints.load_state(self.model, state["state_dict"], path, cure)
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.options.weight_decay  # the options of today; the rate is set every epoch
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        data = self.progress.data
        self.progress = Progress(**state["progress"])
        if self.progress.data != data:
            self.progress.data, self.progress.done = data, []
            warnings.warn(
                "the seed or the training clips have changed: the epoch in progress starts anew", stacklevel=1
            )
        if self.ranks.rank < len(state["rng"]):
            rng = state["rng"][self.ranks.rank]
            torch.set_rng_state(rng["cpu"])
            if self.device.type == "cuda" and "cuda" in rng:
                torch.cuda.set_rng_state(rng["cuda"], self.device)
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
        self.tracker.start(first_step, self._total_steps())
        self.window = self._window()
        if self.ranks.is_main:
            (self.run_dir / MARKER).unlink(missing_ok=True)
        try:
            with self.stop:
                self._run(first_step)
        finally:
            self.tracker.close()
        return self.stop_reason if self.stop_reason in SIGNALS else 0

    def _run(self, first_step: int) -> None:
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
        batches = -(-len(self.train_data) // self.global_batch_size)
        total = self.options.epochs * -(-batches // self.options.accumulation_steps)
        return min(total, self.options.max_steps or total) if self.options.max_minutes is None else None

    def _is_over(self) -> bool:
        options = self.options
        if options.max_steps and self.progress.step >= options.max_steps:
            return True
        # Clocks differ: all ranks must stop at the same step, so rank 0's counts.
        minutes = (time.monotonic() - self.started) / 60
        if options.max_minutes is not None and self.ranks.is_main and minutes > options.max_minutes:
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
        batches = self.plan.batches(progress.epoch, self.global_batch_size, progress.done)
        self.sampler.set_epoch(progress.epoch, batches)
        epoch, num_left = self._window(), len(batches)
        whole = progress.done == [[self.global_batch_size, 0]]
        self.parallel.train()
        for group in _grouped(self.loader, options.accumulation_steps):
            self.train_step(group, self.window, epoch)
            if progress.bad_steps > MAX_BAD_STEPS:
                raise UserError(self._diagnosis(batches[len(batches) - num_left :][: len(group)]))
            num_left -= len(group)
            progress.done[-1][1] += len(group)
            progress.step += 1
            self.tracker.advance()
            if progress.step % options.log_every_steps == 0:
                self._log()
            if progress.step % options.val_every_steps == 0:
                self.validate(self.window, epoch)
            if self._is_over():
                break
            if progress.step % options.checkpoint_every_steps == 0:
                self.save()
        if num_left:
            return
        if whole:  # of an epoch that was resumed only the rest is known
            means, _, seconds = epoch.means(self.device)
            values = {"train_epoch_loss": means["loss"], "train_epoch_time": seconds}
            self.tracker.scalars(progress.step, progress.epoch, values)
        progress.epoch, progress.done = progress.epoch + 1, []

    def train_step(self, batches: list[Any], *windows: Window) -> None:
        """One optimizer step on one or several batches; without a finite gradient the model stays as it was."""
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.model.buffers()]  # BatchNorm's averages move in the forward pass
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            with nullcontext() if last else self._no_sync():
                with self._autocast():
                    result = self.task.loss(self.parallel, self._to_device(batch))
                self.scaler.scale(result.loss / len(batches)).backward()
            for window in windows:
                window.add(result)
        self.scaler.unscale_(self.optimizer)
        limit = self.options.grad_clip_norm or float("inf")
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        finite = norm < float("inf")
        if finite or self.scaler.is_enabled():  # the scaler skips the step by itself, and lowers its scale
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if not finite:
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        self.progress.bad_steps = 0 if finite else self.progress.bad_steps + 1
        for window in windows:
            window.steps += 1
            window.skipped += not finite
            window.grad_norm = norm

    def _diagnosis(self, batches: list[list[int]]) -> str:
        """What is known of too many bad steps, the last of them on `batches` of clips."""
        rows = [self.train_data.clips[index].where for batch in batches for index in batch]
        listed = ", ".join(rows[:MAX_NAMED]) + (f" and {len(rows) - MAX_NAMED} more" if len(rows) > MAX_NAMED else "")
        newest = checkpoints.all_steps(self.run_dir / "checkpoints")
        good = f"{newest[-1]} is unharmed" if newest else "there is no checkpoint yet"
        return (
            f"{self.progress.bad_steps} steps in a row without a finite gradient, the last at step "
            f"{self.progress.step} on the clips {listed}: if it is always these, mend or remove their rows "
            "(scripts/check_dataset.py looks at them all); else lower trainer.learning_rate, set "
            f"trainer.grad_clip_norm, or use trainer.precision=bf16 or fp32; {good}"
        )

    def validate(self, *paused: Window) -> None:
        """Log the validation loss, draw the report, keep the best checkpoint; `paused` do not count the time.

        A signal cuts it short, without a result.
        """
        window = self._window()
        distributed.broadcast_buffers(self.model)  # every rank validates the model that rank 0 saves
        self.model.eval()
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():  # leaves the training's random state alone
            torch.manual_seed(self.config.seed)
            batches = iter(self.val_loader)
            for _ in range(self.num_val_batches):
                if self._signalled():
                    self.model.train()
                    return
                if (batch := next(batches, None)) is not None:
                    with self._autocast():
                        window.add(self.task.loss(self.model, self._to_device(batch)))
            means, items, seconds = window.means(self.device)
            if self.ranks.is_main:
                self.task.report(self.model, self.val_data, self.tracker, self.progress.step)
        self.model.train()
        progress = self.progress
        self.tracker.message(f"step {progress.step:>7,}  validation loss {means['loss']:.4f}")
        values = {f"val_{name}": value for name, value in means.items()}
        self.tracker.scalars(progress.step, progress.epoch, {**values, "val_items_per_sec": items / seconds})
        if means["loss"] < progress.best_loss:
            progress.best_loss, self.best_step = means["loss"], progress.step
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
        means, items, seconds = window.means(self.device)
        rate = self.optimizer.param_groups[0]["lr"]
        values = {
            **{f"train_{name}": value for name, value in means.items()},
            "train_items_per_sec": items / seconds,
            "train_iter_time": seconds / window.steps,
            "learning_rate": rate,
            "grad_norm": window.grad_norm,
            "skipped_steps": window.skipped,
        }
        if self.scaler.is_enabled():
            values["loss_scale"] = self.scaler.get_scale()
        line = f"loss {means['loss']:.4f} grad {window.grad_norm:.2f} lr {rate:.1e} "
        line += f"{items / seconds:,.0f} {self.task.item_name}/s"
        self.tracker.scalars(self.progress.step, self.progress.epoch, values, line)

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
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        every_rng = distributed.gather(rng)
        if self.ranks.is_main:
            state = {
                "model_name": self.task.name,
                "model_config": dataclasses.asdict(self.task.model_config),
                "audio_config": dataclasses.asdict(self.config.audio),
                "text": self.task.text_state(),
                "state_dict": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "progress": dataclasses.asdict(self.progress),
                "rng": every_rng,
                "config": dataclasses.asdict(self.config),
            }
            checkpoints.save(self.run_dir / "checkpoints" / name, state)
        distributed.barrier()


def _grouped(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` consecutive batches; the last may be shorter."""
    iterator = iter(batches)
    while group := list(itertools.islice(iterator, size)):
        yield group
