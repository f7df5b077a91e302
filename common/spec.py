"""Describes a model to the shared code: how to build it, and what its options and weights mean in a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from common.checkpoint.checkpoint import Checkpoint


Weights = Mapping[str, Tensor]


class Reference(Protocol):
    """Converts the checkpoints of one model from and to the reference's layout. Its module reference.py implements it.

    The reference is NVIDIA DeepLearningExamples.
    """

    def recognizes(self, state_dict: Mapping[str, Tensor]) -> bool: ...

    def from_reference(self, state_dict: dict[str, Tensor], settings: Mapping[str, Any]) -> Checkpoint: ...

    def to_reference(self, checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]: ...

    def added_weights(self, config: Any) -> dict[str, Tensor]:
        """The weights that the reference's model lacks, with values that make them have no effect."""
        ...


@dataclass(frozen=True)
class Adapted:
    """Weights of a checkpoint, changed so that a model with another config can start with them."""

    weights: Weights
    difference: str = ""  # between the two configs; "": there is none, and the weights are as they were
    notes: Sequence[str] = ()  # what was done


@dataclass(frozen=True)
class ModelSpec:
    """One kind of model. `meanings`, `names`, `not_sizes` and `for_synthesis` are fields of its config class."""

    name: str
    model_class: type[nn.Module]
    config_class: type[Any]
    reference: Reference
    meanings: tuple[str, ...] = ()  # settings that change the meaning of weights, not their shapes
    names: tuple[str, ...] = ()  # settings that name rows of weights: a run keeps them, `adapt` changes them
    not_sizes: tuple[str, ...] = ()  # integers set by the audio config or the symbols, or on which no shape depends
    for_synthesis: tuple[str, ...] = ()  # settings without weights, to report if the reference's layout drops them
    symbol_weights: tuple[str, ...] = ()  # weights with a row for each symbol
    # (cleaners of a new model, of a checkpoint) -> symbol -> the checkpoint's symbol that it starts from
    alike_symbols: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    renamed_settings: Mapping[str, str] = field(default_factory=dict)  # name in older checkpoints -> current name
    renamed_weights: Mapping[str, str] = field(default_factory=dict)  # the same for the prefixes of weight names
    # How a checkpoint differs in what its config names, and its weights for this model; see `Adapted`. It gets a
    # checkpoint's weights and config, and this model's weights and config.
    adapt: Callable[[Weights, Any, Weights, Any], Adapted] | None = None
