"""A checkpoint: everything needed to continue training or to synthesize, with a name for each part."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from common.config import AudioConfig, TextConfig
from common.schema import from_dict
from common.spec import ModelSpec


@dataclass
class Progress:
    """How far training has come."""

    step: int = 0  # optimizer steps
    epoch: int = 0  # the current one, counted from 0
    done: list[list[int]] = field(default_factory=list)  # finished batches of this epoch, see common/data/batching.py
    data: list[int] = field(default_factory=list)  # RunData.identity of the data that `done` refers to
    best_loss: float = float("inf")  # in validation, or the lowest criterion if the audio is judged
    best_measure: int = 0  # identifies the data and the loss that `best_loss` was measured with; 0: unknown
    best_step: int = -1  # of `best_loss`; -1: unknown
    no_gain: int = 0  # validations since the best one
    validated: int = -1  # the latest step that was validated
    bad_steps: int = 0  # consecutive steps without a finite gradient


def _of_type(kind: Any, value: Any, name: str) -> Any:
    """`value`, if it is of the type `kind`; else raise TypeError with the name of the field."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}")
    return value


def _by_name(kind: type, value: Any, name: str) -> dict[str, Any]:
    """A copy of `value`, if it is a dict of values of the type `kind` by name; else raise TypeError."""
    items = _of_type(dict, value, name).items()
    return {_of_type(str, key, f"a key of {name}"): _of_type(kind, item, f"{name}[{key!r}]") for key, item in items}


def _text(text: Mapping[str, Any]) -> TextConfig:
    symbols = text["symbols"]
    if symbols is not None:
        symbols = tuple(_of_type(str, symbol, "a symbol") for symbol in _of_type(list | tuple, symbols, "symbols"))
    limit = text.get("limit")  # earlier versions did not store it
    if limit is not None and _of_type(int, limit, "limit") < 1:
        raise TypeError(f"limit is {limit}")
    language = _of_type(str, text.get("language", ""), "language")  # nor this
    return TextConfig(symbols, _of_type(str, text["cleaners"], "cleaners"), limit, language)


def _progress(values: Mapping[str, Any]) -> Progress:
    found = Progress(**values)
    for name, default in vars(Progress()).items():
        kind = int | float if isinstance(default, float) else type(default)
        _of_type(kind, getattr(found, name), f"progress.{name}")
    return found


@dataclass
class Checkpoint:
    """The first five fields describe a model. A training run writes the others, so that it can continue."""

    model_name: str
    model_config: dict[str, Any]
    audio: AudioConfig
    text: TextConfig | None  # None: the model reads no text
    state_dict: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)  # averaged weights, if the run keeps them
    optimizer: dict[str, Any] | None = None
    scaler: dict[str, Any] = field(default_factory=dict)  # empty unless the precision is fp16
    adversary: dict[str, Any] = field(default_factory=dict)  # empty unless a discriminator takes part
    progress: Progress | None = None
    rng: list[dict[str, Tensor]] = field(default_factory=list)  # for each rank: device type -> state of its generator
    config: dict[str, Any] = field(default_factory=dict)  # of the whole run

    def description(self) -> dict[str, Any]:
        """The model without its weights, as plain containers."""
        return {
            "model_name": self.model_name,
            "model_config": self.model_config,
            "audio_config": dataclasses.asdict(self.audio),
            "text": self.text and dataclasses.asdict(self.text),
        }

    def to_dict(self) -> dict[str, Any]:
        """The contents of a file: tensors and plain containers only."""
        return {
            **self.description(),
            "state_dict": self.state_dict,
            "average": self.average,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "adversary": self.adversary,
            "progress": self.progress and dataclasses.asdict(self.progress),
            "rng": self.rng,
            "config": self.config,
        }

    @classmethod
    def from_dict(cls, contents: Mapping[str, Any]) -> Checkpoint:
        """The inverse of to_dict. Fields that only a training run needs may be missing.

        Raises KeyError or TypeError if another field is missing or malformed, UserError for a bad audio config.
        """
        text, progress, optimizer = contents["text"], contents.get("progress"), contents.get("optimizer")

        def optional(name: str, kind: type = object) -> dict[str, Any]:
            value = contents.get(name)
            return {} if value is None else _by_name(kind, value, name)

        rng = contents.get("rng")
        return cls(
            model_name=_of_type(str, contents["model_name"], "model_name"),
            model_config=_by_name(object, contents["model_config"], "model_config"),
            audio=from_dict(AudioConfig, _by_name(object, contents["audio_config"], "audio_config")),
            text=None if text is None else _text(_by_name(object, text, "text")),
            state_dict=_by_name(Tensor, contents["state_dict"], "state_dict"),
            average=optional("average", Tensor),
            optimizer=None if optimizer is None else _by_name(object, optimizer, "optimizer"),
            scaler=optional("scaler"),
            adversary=optional("adversary"),
            progress=None if progress is None else _progress(_by_name(object, progress, "progress")),
            rng=[_by_name(Tensor, state, "rng") for state in _of_type(list, [] if rng is None else rng, "rng")],
            config=optional("config"),
        )

    def with_present_names(self, spec: ModelSpec) -> Checkpoint:
        """This checkpoint with the old names of its settings and weights replaced by the present ones."""

        def weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
            renamed = {}
            for name, tensor in state.items():
                prefix = next((old for old in spec.renamed_weights if name.startswith(old)), "")
                renamed[spec.renamed_weights.get(prefix, "") + name.removeprefix(prefix)] = tensor
            return renamed

        config = {spec.renamed_settings.get(name, name): value for name, value in self.model_config.items()}
        return dataclasses.replace(
            self, model_config=config, state_dict=weights(self.state_dict), average=weights(self.average)
        )
