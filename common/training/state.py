"""All that must survive for a run to go on as if it had never stopped."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import files as checkpoints
from common.config import TrainConfig
from common.data.batching import Done
from common.data.mels import audio_differences
from common.distributed.ranks import Ranks
from common.errors import UserError
from common.training.ema import MovingAverage
from common.training.task import MEANINGS, Task


@dataclasses.dataclass
class Progress:
    """How far training has come; part of every checkpoint."""

    step: int = 0  # optimizer steps
    epoch: int = 0  # the one in progress, from 0
    done: Done = dataclasses.field(default_factory=list)  # batches of it that are done
    data: list[int] = dataclasses.field(default_factory=list)  # seed, number and hash of the clips `done` refers to
    best_loss: float = float("inf")
    bad_steps: int = 0  # steps in a row without a finite gradient


@dataclasses.dataclass
class TrainingState:
    """The parts of a run that a checkpoint holds."""

    task: Task
    config: TrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage
    progress: Progress

    def contents(self, rng: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        """A checkpoint of now; `rng` are the random states of every rank."""
        return {
            "model_name": self.task.name,
            "model_config": dataclasses.asdict(self.task.model_config),
            "audio_config": dataclasses.asdict(self.config.audio),
            "text": self.task.text_state(),
            "state_dict": self.model.state_dict(),
            "average": self.average.weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "rng": rng,
            "config": dataclasses.asdict(self.config),
        }

    def restore(self, path: Path, ranks: Ranks) -> None:
        """Go on from the checkpoint at `path`, this rank's random state included."""
        state = checkpoints.load(path)
        self._check(state, path)
        cure = "use the options it was trained with, or another run_dir"
        checkpoints.load_state(self.model, state["state_dict"], path, cure)
        self.average.load(state.get("average") or {})
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.trainer.weight_decay  # of today; the rate is set every epoch
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        data = self.progress.data
        self.progress = Progress(**state["progress"])
        if self.progress.data != data:
            self.progress.data, self.progress.done = data, []
            warnings.warn(
                "the seed or the training clips have changed: the epoch in progress starts anew", stacklevel=1
            )
        if ranks.rank < len(state["rng"]):
            rng = state["rng"][ranks.rank]
            torch.set_rng_state(rng["cpu"])
            if ranks.device.type == "cuda" and "cuda" in rng:
                torch.cuda.set_rng_state(rng["cuda"], ranks.device)

    def _check(self, state: dict[str, Any], path: Path) -> None:
        run_dir = f"run_dir={self.config.run_dir}"
        if state["model_name"] != self.task.name:
            raise UserError(f"{run_dir} holds a {state['model_name']}; choose another run_dir")
        if differences := audio_differences(self.config.audio, state["audio_config"]):
            raise UserError(f"{run_dir}: {'; '.join(differences)}; choose another run_dir")
        if state["text"] != self.task.text_state():
            raise UserError(f"{run_dir}: other symbols or cleaners than data's; choose another run_dir")
        ours, theirs = dataclasses.asdict(self.task.model_config), state["model_config"]
        if other := [f"model.{key}={theirs[key]}" for key in MEANINGS if key in ours and theirs[key] != ours[key]]:
            raise UserError(f"{run_dir} was trained with {' '.join(other)}; use the same, or another run_dir")
        if "optimizer" not in state:
            raise UserError(
                f"checkpoint {path} holds weights alone; start from it with init_from={path} and a new run_dir"
            )
