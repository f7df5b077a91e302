"""Starts training with the weights of a checkpoint: all of them or, as a warm start, those that fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import files, formats
from common.config import AudioConfig, TextConfig
from common.data.mels import audio_differences
from common.errors import UserError
from common.schema import from_dict
from common.spec import Adapted, ModelSpec, Weights
from common.wording import counted

Symbols = tuple[str, ...] | None
SHOWN = 60  # symbols, in messages
WARM_START = "set warm_start=true to load only the weights that fit"


@dataclass
class Target:
    """The model that receives the weights, and what it was built from."""

    model: nn.Module
    spec: ModelSpec
    config: Any  # of the model
    audio: AudioConfig
    text: TextConfig | None


@dataclass
class Mismatch:
    """How the checkpoint differs, and the options that would make the model match it."""

    differences: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)


def initialize(target: Target, path: str, warm_start: bool) -> str:
    """Load the weights of the checkpoint at `path`, of any layout, and describe what was loaded.

    Unless `warm_start`, a UserError names all differences in the symbols, the audio config, the sizes of weights, and
    the settings that change their meaning (ModelSpec.meanings). Different cleaners are only mentioned.
    """
    checkpoint = formats.load(path, [target.spec])
    own, taken = target.model.state_dict(), dict(checkpoint.state_dict)
    ours, theirs = (text.symbols if text else None for text in (target.text, checkpoint.text))
    notes = _other_cleaners(target.text, checkpoint.text)
    for key in target.spec.symbol_weights:
        if ours != theirs and key in taken and own[key].shape[1:] == taken[key].shape[1:]:
            alike = _alike(target, checkpoint.text)
            taken[key], note = _rows_by_symbol(own[key], taken[key], ours, theirs, alike)
            notes.append(f"{key}: {note}")
    adapted = _adapted(target, taken, checkpoint.model_config, own)
    taken = dict(adapted.weights)
    left = {key: tensor for key, tensor in own.items() if key not in taken or taken[key].shape != tensor.shape}
    has_other_sizes = bool(left or taken.keys() - own.keys())
    found = _mismatch(target, checkpoint.audio, ours, theirs, checkpoint.model_config, has_other_sizes)
    found.differences += filter(None, [adapted.difference])
    if not warm_start:
        if found.differences:
            cure = f"set {' '.join(found.same)}, or " if found.same else ""
            raise UserError(f"init_from={path}: {'; '.join(found.differences)}; {cure}{WARM_START}")
        files.load_state(target.model, taken, path, WARM_START)
        return "\n  ".join([f"initialized with all weights of {path}", *notes])
    notes += adapted.notes
    target.model.load_state_dict({key: taken[key] for key in own if key not in left}, strict=False)
    notes += [
        f"not taken: {key} {tuple(tensor.shape)}, "
        + (f"the checkpoint's is {tuple(taken[key].shape)}" if key in taken else "the checkpoint has none")
        for key, tensor in left.items()
    ]
    notes += [f"not taken: {key}, this model has none" for key in taken if key not in own]
    head = f"initialized with {len(own) - len(left)} of {counted(len(own), 'weight')} of {path}"
    notes = [f"differs: {difference}" for difference in found.differences] + notes
    return "\n  ".join([head, *notes]) if notes else f"{head}: all of them, warm_start=true was not needed"


def _adapted(target: Target, taken: Weights, settings: dict[str, Any], own: Weights) -> Adapted:
    """What the model itself does with the weights `taken` of a checkpoint with these settings."""
    if target.spec.adapt is None:
        return Adapted(taken)
    return target.spec.adapt(taken, from_dict(target.spec.config_class, settings), own, target.config)


def _mismatch(
    target: Target, audio: AudioConfig, ours: Symbols, theirs: Symbols, settings: dict[str, Any], has_other_sizes: bool
) -> Mismatch:
    found = Mismatch(audio_differences(target.audio, audio, "in the checkpoint"))
    found.same += [
        f"audio.{key}={value}"
        for key, value in dataclasses.asdict(audio).items()
        if value != getattr(target.audio, key)
    ]
    if ours != theirs:
        found.differences.append(_symbol_difference(ours, theirs))
    if other := _other_settings(target, settings, has_other_sizes):
        found.differences.append(f"the checkpoint has {' '.join(other)}")
        found.same += other
    return found


def _symbol_difference(ours: Symbols, theirs: Symbols) -> str:
    if theirs is None:
        return "the checkpoint does not name its symbols (convert it first: scripts/convert_checkpoint.py --symbols)"
    assert ours is not None
    new, gone = (_listed(_without(a, b)) for a, b in ((ours, theirs), (theirs, ours)))
    if new == gone:
        return "the symbols are in a different order"
    return f"the symbols differ: only this run has {new}, only the checkpoint has {gone} (data.characters)"


def _without(symbols: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    return [symbol for symbol in symbols if symbol not in others]


def _listed(symbols: list[str]) -> str:
    more = f" and {len(symbols) - SHOWN} more" if len(symbols) > SHOWN else ""
    return " ".join(map(repr, symbols[:SHOWN])) + more or "none"


def _alike(target: Target, theirs: TextConfig | None) -> Mapping[str, str]:
    if not target.text or not theirs:
        return {}
    return target.spec.alike_symbols.get((target.text.cleaners, theirs.cleaners), {})


def _rows_by_symbol(
    own: Tensor, taken: Tensor, ours: Symbols, theirs: Symbols, alike: Mapping[str, str]
) -> tuple[Tensor, str]:
    """`own` with the rows of `taken` for the symbols that both have, or that are `alike`, and a note on the others."""
    assert ours is not None
    if theirs is None:
        return own, "all rows are new"
    index = {symbol: row for row, symbol in enumerate(theirs)}
    sources = {symbol: alike[symbol] if alike.get(symbol) in index else symbol for symbol in ours}
    pairs = [(row, index[sources[symbol]]) for row, symbol in enumerate(ours) if sources[symbol] in index]
    mapped = own.clone()
    to, source = torch.tensor(pairs).T
    mapped[to] = taken[source].to(mapped)
    num_alike = sum(sources[symbol] != symbol for symbol in ours)
    similar = f", {num_alike} of them from symbols that sound alike" if num_alike else ""
    new = _listed([symbol for symbol in ours if sources[symbol] not in index])
    return mapped, f"{counted(len(pairs), 'row')} copied by symbol{similar}; new rows for {new}"


def _other_cleaners(ours: TextConfig | None, theirs: TextConfig | None) -> list[str]:
    if not ours or not theirs:
        return []
    differences = {"language": (ours.language, theirs.language), "cleaners": (ours.cleaners, theirs.cleaners)}
    return [
        f"data.{key}={own}, the checkpoint was trained with {other}"
        for key, (own, other) in differences.items()
        if own != other and other
    ]


def _other_settings(target: Target, theirs: dict[str, Any], has_other_sizes: bool) -> list[str]:
    """ "model.key=value" for each setting of the checkpoint that is needed to get the same model."""
    ours, spec = dataclasses.asdict(target.config), target.spec

    def matters(key: str, value: Any) -> bool:
        return key in spec.meanings or (has_other_sizes and isinstance(value, int) and key not in spec.not_sizes)

    return [f"model.{key}={value}" for key, value in theirs.items() if matters(key, value) and ours.get(key) != value]
