"""What the trainer needs to know of a model: data, loss and pictures. Each model's task.py implements it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from common.config import TrainConfig
from common.data.filelist import Clip
from common.tracking.tracker import Tracker

MEANINGS = ("mel_mean", "mel_std", "lapped")  # model settings that no weight shows, but that all of them go by
Draw = tuple[int, int]  # (index of a clip, epoch): with the run's seed all that chance in a data set may depend on


class ClipDataset(Protocol):
    """A map from draws to items, with their lengths in mel frames, by which batches are made."""

    @property
    def clips(self) -> Sequence[Clip]: ...

    @property
    def lengths(self) -> Sequence[int]: ...

    def __getitem__(self, draw: Draw) -> Any: ...

    def __len__(self) -> int: ...


@dataclass
class Loss:
    """The result of one batch."""

    loss: Tensor  # scalar, the one to minimise
    num_items: Tensor | int  # what items/s counts: mel frames or audio samples
    num_positions: int  # the same with padding
    parts: dict[str, Tensor]  # scalars for the log, by Task.part_names


class Reference(Protocol):
    """The reference's checkpoints of one model: the module reference.py of each model is one."""

    def recognizes(self, state_dict: Mapping[str, Tensor]) -> bool: ...

    def from_reference(self, state_dict: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]: ...

    def to_reference(self, checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]: ...


class Task(Protocol):
    """One model in training. `batch` is a NamedTuple of tensors, whatever `collate` makes of items."""

    name: ClassVar[str]
    model_class: ClassVar[type[nn.Module]]
    config_class: ClassVar[type[Any]]
    reference: ClassVar[Reference]
    item_name: ClassVar[str]
    symbol_rows: ClassVar[tuple[str, ...]]  # the weights that have a row for each symbol
    model_config: Any
    part_names: tuple[str, ...]  # the keys of Loss.parts, "loss" among them

    def __init__(self, config: TrainConfig) -> None: ...

    def build_model(self) -> nn.Module: ...

    def text_state(self) -> dict[str, Any] | None:
        """Symbols and cleaners for the checkpoint, None for a model without text."""
        ...

    def datasets(self) -> tuple[ClipDataset, ClipDataset]:
        """(training, validation), checked: what is wrong with the data is said here, before the first step."""
        ...

    def collate(self, items: list[Any]) -> Any: ...

    def loss(self, model: nn.Module, batch: Any, step: int | None = None) -> Loss:
        """Of one batch, at a step of training: what changes in the course of it is as at its end if `step` is None."""
        ...

    def advice(self, step: int, parts: Mapping[str, float]) -> str:
        """What is going wrong at `step`, by the means of the loss's parts, and what to try; empty if all is well."""
        ...

    def calibrate(self, model: nn.Module, data: Any) -> None:
        """Measure what synthesis corrects, if it does: `model` in eval mode on the validation set `data`."""
        ...

    def report(self, model: nn.Module, data: Any, tracker: Tracker, step: int) -> None:
        """Pictures and sounds, with `model` in eval mode: of the validation set `data`, and of fixed sentences."""
        ...
