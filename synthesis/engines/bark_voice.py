"""Bark's voices: tokens of a recording that the model goes on from. Presets of the model, or a file of the user."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from common.errors import UserError, first_line
from synthesis.engines.bark_model import History, Sampling, cures

LISTED = 10  # presets in a message
CURE = "make the file as Bark's presets are: semantic_prompt (X), coarse_prompt (2, X), fine_prompt (8, X), all indices"
PRESET = re.compile(r"(?:v\d+/)?([a-z]{2})_speaker_\d+")


class Prompt(NamedTuple):
    """What one array of a voice must be."""

    key: str
    rows: int | None  # None: it has one dimension
    size: int  # of the vocabulary


def language_of(voice: str | None) -> str:
    """The language that the name of a preset says, such as "de" of v2/de_speaker_3; English of others."""
    named = PRESET.fullmatch(voice or "")
    return named[1] if named else "en"


def load_voice(voice: str, model: str, processor: Any, sampling: Sampling, device: torch.device) -> History:
    """The tokens of a preset of the model, or of an .npz file. Raises UserError for one that the model cannot use."""
    presets = processor.available_voice_presets
    if voice in presets:
        with cures(model):
            arrays = processor("", voice_preset=voice, return_tensors="np")["history_prompt"]
        return _checked(arrays.__getitem__, sampling, device, f"engine.voice={voice}", "download the model again")
    path = Path(voice).expanduser()
    if path.suffix == ".npz" or path.is_file():
        return _from_file(path, sampling, device)
    some = ", ".join(presets[:LISTED]) + (", ..." if len(presets) > LISTED else "")
    raise UserError(
        f"engine.voice={voice}: {model} has no such preset; it has {len(presets)}{f': {some}' if presets else ''}; "
        "set one of them, or the path of a file.npz"
    )


def _from_file(path: Path, sampling: Sampling, device: torch.device) -> History:
    about = f"engine.voice={path}"
    if not path.is_file():
        raise UserError(f"{about}: there is no such file; set the path of a file.npz, or the name of a preset")
    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserError(f"{about}: it is one array, no .npz; {CURE}")
        with arrays:
            return _checked(arrays.__getitem__, sampling, device, about, CURE)
    except UserError:
        raise
    except Exception as error:  # of zip files, of the headers of arrays, of pickled objects
        raise UserError(f"{about}: not a readable .npz ({first_line(error)}); {CURE}") from error


def _checked(
    array_of: Callable[[str], Any], sampling: Sampling, device: torch.device, about: str, cure: str
) -> History:
    """The arrays as tensors, if they are what the model reads."""
    prompts = [
        Prompt("semantic_prompt", None, int(sampling.semantic.semantic_vocab_size)),
        Prompt("coarse_prompt", int(sampling.coarse.n_coarse_codebooks), sampling.codebook_size),
        Prompt("fine_prompt", int(sampling.fine.n_fine_codebooks), sampling.codebook_size),
    ]
    history = {}
    for prompt in prompts:
        try:
            array = np.asarray(array_of(prompt.key))
        except KeyError:
            raise UserError(f"{about}: it has no {prompt.key}; {cure}") from None
        if problem := _problem(array, prompt):
            raise UserError(f"{about}: {prompt.key} {problem}; {cure}")
        history[prompt.key] = torch.from_numpy(array.astype(np.int64)).to(device)
    return history


def _problem(array: np.ndarray[Any, Any], prompt: Prompt) -> str:
    """What is wrong with an array of a voice; empty if nothing is."""
    shape = "(X)" if prompt.rows is None else f"({prompt.rows}, X)"
    if array.ndim != (1 if prompt.rows is None else 2) or (prompt.rows and len(array) != prompt.rows):
        return f"has shape {array.shape}, not {shape}"
    if array.dtype.kind not in "iu":
        return f"has numbers of type {array.dtype}, not integers"
    if not array.size:
        return "is empty"
    if array.min() < 0 or array.max() >= prompt.size:
        return f"has values from {array.min()} to {array.max()}, not from 0 to {prompt.size - 1}"
    return ""
