"""Start training with the weights of a checkpoint: all of them, or, as a warm start, those that fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.config import AudioConfig
from common.data.mels import audio_differences
from common.errors import UserError
from common.training.task import MEANINGS, Task

# Model settings that follow from audio and data, or change no weight: nothing to set to have the checkpoint's sizes.
NO_SIZES = ("n_mel_channels", "n_symbols", "hop_length", "win_length", "max_decoder_steps", "match_mel")


def initialize(model: nn.Module, task: Task, audio: AudioConfig, path: str, warm_start: bool) -> str:
    """Load the weights of the checkpoint at `path`, of any layout, and say what was taken.

    Unless `warm_start`, a UserError names all that differs: symbols, audio config, sizes, scale of the mels. Other
    cleaners are said, not refused.
    """
    checkpoint = interchange.load(path, [type(task)])
    differences = audio_differences(audio, checkpoint["audio_config"], "in the checkpoint")
    ours, theirs = _symbols(task.text_state()), _symbols(checkpoint["text"])
    if ours != theirs:
        differences.append(_symbol_difference(ours, theirs))
    own = model.state_dict()
    taken = dict(checkpoint["state_dict"])
    notes = _other_cleaners(task.text_state(), checkpoint["text"])
    for key in task.symbol_rows:
        if ours != theirs and key in taken and own[key].shape[1:] == taken[key].shape[1:]:
            taken[key], note = _rows_by_symbol(own[key], taken[key], ours, theirs)
            notes.append(f"{key}: {note}")
    left = {key: tensor for key, tensor in own.items() if key not in taken or taken[key].shape != tensor.shape}
    theirs_audio = checkpoint["audio_config"]
    same = [f"audio.{key}={theirs_audio[key]}" for key, value in vars(audio).items() if value != theirs_audio[key]]
    other_sizes = bool(left or taken.keys() - own.keys())
    if settings := _model_differences(task, checkpoint["model_config"], other_sizes):
        differences.append(f"the checkpoint has {' '.join(settings)}")
        same += settings
    if not warm_start:
        if differences:
            cure = f"use the same{': ' if same else ''}{' '.join(same)}, or take what fits with warm_start=true"
            raise UserError(f"init_from={path}: {'; '.join(differences)}; {cure}")
        checkpoints.load_state(model, taken, path, "take what fits with warm_start=true")
        return "\n  ".join([f"initialized with all weights of {path}", *notes])
    model.load_state_dict({key: taken[key] for key in own if key not in left}, strict=False)
    notes += [
        f"not taken: {key} {tuple(tensor.shape)}, "
        + (f"the checkpoint's is {tuple(taken[key].shape)}" if key in taken else "the checkpoint has none")
        for key, tensor in left.items()
    ]
    notes += [f"not taken: {key}, this model has none" for key in taken if key not in own]
    head = f"initialized with {len(own) - len(left)} of {len(own)} weights of {path}"
    notes = [f"differs: {difference}" for difference in differences] + notes
    return "\n  ".join([head, *notes]) if notes else f"{head}: all of them, warm_start=true was not needed"


def _symbols(text: dict[str, Any] | None) -> list[str] | None:
    return text["symbols"] if text else None


def _symbol_difference(ours: list[str] | None, theirs: list[str] | None) -> str:
    if theirs is None:
        return "the checkpoint does not name its symbols (convert it first: scripts/convert_checkpoint.py --symbols)"
    assert ours is not None
    new, gone = (" ".join(map(repr, _without(a, b))) or "none" for a, b in ((ours, theirs), (theirs, ours)))
    return f"other symbols: {new} are new, {gone} are no more" if new != gone else "the symbols have another order"


def _without(symbols: list[str], others: list[str]) -> list[str]:
    return [symbol for symbol in symbols if symbol not in others]


def _rows_by_symbol(own: Tensor, taken: Tensor, ours: list[str] | None, theirs: list[str] | None) -> tuple[Tensor, str]:
    """`own` with the rows of `taken` for the symbols that both have, and which rows stay as they were."""
    assert ours is not None
    if theirs is None:
        return own, "all rows are new"
    index = {symbol: row for row, symbol in enumerate(theirs)}
    pairs = [(row, index[symbol]) for row, symbol in enumerate(ours) if symbol in index]
    mapped = own.clone()
    to, source = torch.tensor(pairs).T
    mapped[to] = taken[source].to(mapped)
    new = _without(ours, theirs)
    return mapped, f"{len(pairs)} rows carried over by their symbols; new rows for {' '.join(map(repr, new)) or 'none'}"


def _other_cleaners(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> list[str]:
    if not ours or not theirs or ours["cleaners"] == theirs["cleaners"]:
        return []
    return [f"data.cleaners={ours['cleaners']}, the checkpoint learned to read with {theirs['cleaners']}"]


def _model_differences(task: Task, theirs: dict[str, Any], sizes: bool) -> list[str]:
    """ "model.key=value" of the checkpoint for each setting that differs: what to set to have its model."""
    ours = dataclasses.asdict(task.model_config)
    return [
        f"model.{key}={value}"
        for key, value in theirs.items()
        if (key in MEANINGS or (sizes and isinstance(value, int) and key not in NO_SIZES)) and ours.get(key) != value
    ]
