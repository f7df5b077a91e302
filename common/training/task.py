"""A task: the parts that make one model trainable. Each model's task.py builds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Generator, Tensor, nn

from common.config import TextConfig, TrainConfig
from common.data.dataset import ClipDataset
from common.errors import UserError, did_you_mean
from common.schema import from_dict
from common.spec import ModelSpec
from common.tracking.tracker import Tracker

T = TypeVar("T")


class Compared(NamedTuple):
    """What a discriminator shall tell apart."""

    weight: float  # of the loss that the discriminator gives the model
    predicted: Tensor  # (B, ..., T), by the model, with its gradient
    recorded: Tensor  # the same shape
    lengths: Tensor | None = None  # (B), each up to T; None: all are T


@dataclass
class Loss:
    """The loss of one batch."""

    loss: Tensor  # scalar, to be minimized
    num_items: Tensor | int  # what items/s counts: mel frames or audio samples
    num_positions: int  # the same with padding
    parts: dict[str, Tensor]  # scalars for the log, named by Objective.part_names
    compared: Compared | None = None  # in training, if a discriminator takes part


class Objective(Protocol):
    """Runs the model on a batch and computes its loss. A batch is a NamedTuple of tensors, made by Task.collate."""

    part_names: tuple[str, ...]  # the keys of Loss.parts; "loss" is one of them

    def __call__(self, model: nn.Module, batch: Any, step: int | None, generator: Generator) -> Loss:
        """`step` is the training step, on which schedules depend; None stands for the end of training."""
        ...

    def advice(self, step: int | None, parts: Mapping[str, float]) -> str:
        """What goes wrong at `step` (None: at the end of training), and what to try; empty if all is well.

        `parts` holds averages of Loss.parts.
        """
        ...


@dataclass(frozen=True)
class Speech:
    """Audio that the model made in a validation, as a user would hear it."""

    text: str  # what it should say
    audio: Tensor  # (N), on the CPU
    clip: int | None = None  # the clip of the validation set that it copies, if it is a copy


class Verdict(NamedTuple):
    """What a judge found in the speech of a validation."""

    criterion: float  # the validation with the lowest one is the best
    measures: dict[str, float]  # for the log


# Writes the pictures and sounds of a validation: (the model in eval mode, the validation set, ...) -> what to judge.
Report = Callable[[nn.Module, Any, Tracker, int, Generator], Sequence[Speech]]


@dataclass(frozen=True)
class Task:
    """A model and everything needed to train it."""

    spec: ModelSpec
    model_config: Any
    text: TextConfig | None  # None: the model reads no text
    item_name: str  # what Loss.num_items counts
    build_model: Callable[[], nn.Module]
    datasets: Callable[[], tuple[ClipDataset, ClipDataset]]  # (training, validation), checked before the first step
    collate: Callable[[list[Any]], Any]
    objective: Objective
    report: Report
    then: str  # what to do after training; {run_dir} stands for the run directory, {step} for its last step
    discriminator: Callable[[], nn.Module] | None = None  # see common/training/adversary.py
    # Called before the report: measures a systematic error of the model's output, and stores in the model what
    # synthesis needs to correct it.
    calibrate: Callable[[nn.Module, Any, Generator], None] | None = None
    # What is wrong with the validation set, at the start of a run; empty if all is well.
    warning: Callable[[Any], str] = lambda data: ""
    # The report with another vocoder, mel (n_mels, T) -> audio (N), than its own; None: the model makes audio itself.
    report_with: Callable[[Callable[[Tensor], Tensor]], Report] | None = None
    judge: Callable[[Sequence[Speech]], Verdict] | None = None  # on rank 0, if trainer.judge is true
    memory_option: str = ""  # ends the message when memory runs out, for example " or KEY=VALUE"
    # The same task with what only the training set tells.
    of_data: Callable[[Any], Task] | None = None

    def knowing(self, train: ClipDataset) -> Task:
        """This task for a run on the training set `train`."""
        return self if self.of_data is None else self.of_data(train)


def task_options(cls: type[T], config: TrainConfig) -> T:
    """Build the options class `cls` from `config.task`; a UserError names the model if it has no such option."""
    known = cls.__dataclass_fields__  # type: ignore[attr-defined] # cls is a dataclass
    for name, value in config.task.items():
        if name not in known:
            model = config.model.get("name")
            raise UserError(f"task.{name}={value}: model {model} has no such option{did_you_mean(name, known)}")
    return from_dict(cls, config.task)
