"""The state of a run: everything that changes during training.

A run that resumes from a checkpoint of this state continues as if it had never stopped.
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from common.checkpoint import files
from common.checkpoint.checkpoint import Checkpoint, Progress
from common.config import TrainConfig
from common.data.mels import audio_differences
from common.distributed.ranks import Ranks
from common.errors import UserError
from common.training.adversary import Adversary
from common.training.ema import MovingAverage
from common.training.task import Task


@dataclass
class TrainingState:
    """The parts of a run that a checkpoint holds. Dropout and noise draw from `generator`, on the model's device."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    generator: Generator
    progress: Progress
    adversary: Adversary | None = None

    def rng(self) -> dict[str, Tensor]:
        """The random state of this rank, as a checkpoint stores it."""
        return {self.generator.device.type: self.generator.get_state()}

    def checkpoint(self, task: Task, config: TrainConfig, rng: list[dict[str, Tensor]]) -> Checkpoint:
        """A checkpoint of the present state; `rng` holds the random states of all ranks."""
        return Checkpoint(
            model_name=task.spec.name,
            model_config=dataclasses.asdict(task.model_config),
            audio=config.audio,
            text=task.text,
            state_dict=self.model.state_dict(),
            average=self.average.weights,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            adversary=self.adversary.state_dict() if self.adversary else {},
            progress=self.progress,
            rng=rng,
            config=dataclasses.asdict(config),
        )

    def restore(self, path: Path, task: Task, config: TrainConfig, ranks: Ranks) -> None:
        """Continue from the checkpoint at `path`, with the random state of this rank."""
        checkpoint = files.load(path, resumable=True)
        _check(checkpoint, task, config)
        checkpoint = checkpoint.with_present_names(task.spec)
        cure = "use the options it was trained with, or another run_dir"
        files.load_state(self.model, checkpoint.state_dict, path, cure)
        self.average.load(checkpoint.average)
        assert checkpoint.optimizer is not None
        assert checkpoint.progress is not None
        self.optimizer.load_state_dict(checkpoint.optimizer)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = config.trainer.weight_decay  # the present option; the rate is set in every step
        if checkpoint.scaler:
            self.scaler.load_state_dict(checkpoint.scaler)
        if self.adversary and checkpoint.adversary:  # else it starts now
            self.adversary.load_state_dict(checkpoint.adversary)
        data = self.progress.data
        self.progress = checkpoint.progress
        if self.progress.data != data:
            self.progress.data, self.progress.done = data, []
            warnings.warn(
                "the seed or the training clips have changed: the current epoch starts from its beginning", stacklevel=1
            )
        if ranks.rank < len(checkpoint.rng):
            state = checkpoint.rng[ranks.rank].get(self.generator.device.type)
            if state is not None:
                self.generator.set_state(state)


def _check(checkpoint: Checkpoint, task: Task, config: TrainConfig) -> None:
    """Raise a UserError if the checkpoint's model, audio, text, or a setting in ModelSpec.meanings or names, is not the
    task's."""
    run_dir = f"run_dir={config.run_dir}"
    if checkpoint.model_name != task.spec.name:
        raise UserError(f"{run_dir} holds a {checkpoint.model_name}; choose another run_dir")
    if differences := audio_differences(config.audio, checkpoint.audio):
        raise UserError(f"{run_dir}: {'; '.join(differences)}; choose another run_dir")
    if checkpoint.text and task.text and checkpoint.text.cleaners != task.text.cleaners:
        raise UserError(
            f"{run_dir} was trained with data.cleaners={checkpoint.text.cleaners}, not {task.text.cleaners}; use the "
            "same, or another run_dir"
        )
    if checkpoint.text and task.text and checkpoint.text.language not in ("", task.text.language):
        raise UserError(
            f"{run_dir} was trained with data.language={checkpoint.text.language}, not {config.data.language}; use the "
            "same, or another run_dir"
        )
    if checkpoint.text and task.text and checkpoint.text.symbols != task.text.symbols:
        raise UserError(f"{run_dir}: trained with other symbols (data.characters); use the same, or another run_dir")
    ours = dataclasses.asdict(task.model_config)
    theirs = ours | checkpoint.with_present_names(task.spec).model_config
    kept = (*task.spec.meanings, *task.spec.names)
    if other := [f"model.{key}={theirs[key]}" for key in kept if theirs[key] != ours[key]]:
        raise UserError(f"{run_dir} was trained with {' '.join(other)}; use the same, or another run_dir")
