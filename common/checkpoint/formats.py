"""Checkpoints of any layout as ours, and ours as the reference's or as safetensors.

Layouts: ours; safetensors; NVIDIA DeepLearningExamples' {state_dict, config, ...}; the original repositories'
{state_dict, ...} and {model: a pickled module, ...}; a bare state_dict. Each model's reference.py knows its own keys.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.checkpoint import files as checkpoints
from common.checkpoint import unpickle
from common.checkpoint.files import FAMILY, FORMAT
from common.config import from_dict
from common.errors import UserError, first_line
from common.training.task import Task

SAFETENSORS = ".safetensors"
DESCRIPTION = ("model_name", "model_config", "audio_config", "text")  # what a checkpoint says beside its weights
_WRAPPERS = re.compile(r"^(module\.|1\.|_orig_mod\.)+")  # of DistributedDataParallel, apex and torch.compile


def load(path: str | Path, tasks: Iterable[type[Task]]) -> dict[str, Any]:
    """A checkpoint of any layout, or a run directory's newest one, as ours: with `DESCRIPTION` and `state_dict` at
    least, the averaged weights if the run kept an average. A UserError if it holds none of the models of `tasks`."""
    path = checkpoints.find(path)
    checkpoints.verify(path)
    tasks = list(tasks)
    if checkpoints.is_ours(path):
        checkpoint = checkpoints.load(path)
        checkpoint["state_dict"] |= checkpoint.get("average") or {}  # the average of a run that keeps one
    else:
        checkpoint = _load_safetensors(path) if path.suffix == SAFETENSORS else unpickle.load(path)
        if not (isinstance(checkpoint, dict) and checkpoint.get("format") == FORMAT):
            checkpoint = _from_reference(checkpoint, path, tasks)
    if checkpoint["model_name"] not in (names := [task.name for task in tasks]):
        raise UserError(f"checkpoint {path} holds a {checkpoint['model_name']}; give one of a {' or a '.join(names)}")
    return checkpoint


def build(checkpoint: dict[str, Any], path: str | Path, tasks: Iterable[type[Task]], **overrides: Any) -> nn.Module:
    """The model of `checkpoint`, in eval mode; `overrides` replace fields of its config."""
    task = next(task for task in tasks if task.name == checkpoint["model_name"])
    model = task.model_class(from_dict(task.config_class, checkpoint["model_config"] | overrides, "model"))
    checkpoints.load_state(model, checkpoint["state_dict"], path, "it is of another kind, or not whole")
    return model.eval()


def _from_reference(raw: Any, path: Path, tasks: Sequence[type[Task]]) -> dict[str, Any]:
    state_dict, settings = _weights(raw, path)
    task = next((task for task in tasks if task.reference.recognizes(state_dict)), None)
    if task is None:
        listed = ", ".join(list(state_dict)[:3])
        raise UserError(
            f"checkpoint {path}: its weights ({listed}, ...) are not those of a {' or a '.join(t.name for t in tasks)}"
        )
    try:
        converted = task.reference.from_reference(state_dict, settings)
    except KeyError as error:
        raise UserError(f"checkpoint {path}: its {task.name} lacks {error}; was the file written whole?") from error
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    except (TypeError, ValueError, IndexError) as error:  # a weight or a setting of another kind than any model has
        raise UserError(f"checkpoint {path}: not a {task.name} that is known here ({first_line(error)})") from error
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    progress = {"progress": {"epoch": epoch + 1}} if isinstance(epoch, int) else {}  # kept for the way back
    return {"format": FORMAT, "model_name": task.name, **converted, **progress}


def _weights(raw: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state_dict without wrappers' prefixes, settings: the constructor's arguments or a module's attributes)"""
    settings: Any = {}
    for key in ("state_dict", "model"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            settings, raw = raw.get("config"), raw[key]
            break
    if isinstance(raw, unpickle.Foreign) and "_modules" in vars(raw):
        raw, settings = unpickle.flatten(raw)
    items = raw.items() if isinstance(raw, dict) else ()
    weights = {_WRAPPERS.sub("", str(key)): value for key, value in items if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"checkpoint {path}: no weights were found; it needs a state_dict, or a pickled module")
    return weights, settings if isinstance(settings, dict) else {}


# ---- ours to others ----


def save_reference(checkpoint: dict[str, Any], path: Path, task: type[Task]) -> None:
    """Write `checkpoint` in the layout of NVIDIA DeepLearningExamples, whose training can resume from it.

    Optimizer, loss scale, epoch and random states go along if the checkpoint has them, otherwise new ones are written.
    """
    config, state_dict = task.reference.to_reference(checkpoint)
    fresh = torch.optim.Adam(build(checkpoint, path, [task]).parameters()).state_dict()
    rng = checkpoint.get("rng") or [{"cpu": torch.random.get_rng_state()}]
    no_cuda = torch.zeros(16, dtype=torch.uint8)  # seed and offset of a CUDA generator
    progress = checkpoint.get("progress") or {"epoch": 0}
    optimizer = checkpoint.get("optimizer") or fresh
    for group in optimizer["param_groups"]:
        group["fused"] = None  # which kernels to use is for the one who resumes to say
    written = {
        "epoch": progress["epoch"] - 1,  # the last one that was finished
        "cuda_rng_state_all": torch.stack([state.get("cuda", no_cuda) for state in rng]),
        "random_rng_states_all": torch.stack([state["cpu"] for state in rng]),
        "config": config,
        "state_dict": state_dict,
        "optimizer": optimizer,
        "scaler": checkpoint.get("scaler") or {},
    }
    checkpoints.write(path, lambda file: torch.save(written, file))


def lost_in_reference(checkpoint: dict[str, Any], task: type[Task]) -> list[str]:
    """What of `checkpoint` the reference takes for granted, where it is otherwise."""
    config, state_dict = task.reference.to_reference(checkpoint)
    back = task.reference.from_reference(state_dict, config)
    audio, text = checkpoint["audio_config"], checkpoint["text"] or {}
    lost = [f"audio.{key}={value}" for key, value in audio.items() if back["audio_config"][key] != value]
    weights = checkpoint["state_dict"]
    dropped = [key for key in weights.keys() - state_dict if not torch.equal(weights[key], back["state_dict"][key])]
    settings = checkpoint["model_config"]
    spoken = [key for key in ("sigma", "match_mel") if settings.get(key) != back["model_config"].get(key)]
    lost += [f"model.{key}={settings[key]}" for key in spoken]
    lost += sorted({f"its {key.split('.')[0]}" for key in dropped})
    for key, value in text.items():
        if value != back["text"][key]:
            lost.append(f"{key} {value}" if key == "cleaners" else "its symbols")
    return lost


def save_safetensors(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the weights, with the rest of the description as JSON in the file's metadata."""
    metadata = {"format": FORMAT, **{key: json.dumps(checkpoint[key]) for key in DESCRIPTION}}
    tensors = {key: tensor.contiguous().clone() for key, tensor in checkpoint["state_dict"].items()}
    data = safetensors.torch.save(tensors, metadata)
    checkpoints.write(path, lambda file: file.write(data))


def _load_safetensors(path: Path) -> dict[str, Any]:
    """Our checkpoint, or of a file without our metadata the bare weights."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        found = metadata.get("format", "")
        description = {key: json.loads(metadata[key]) for key in DESCRIPTION} if found == FORMAT else {}
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"checkpoint {path}: not a readable safetensors file ({first_line(error)})") from error
    if found.startswith(FAMILY) and found != FORMAT:
        raise UserError(f"checkpoint {path}: not a checkpoint of this version (format {found!r}, not {FORMAT!r})")
    return {"format": FORMAT, **description, "state_dict": state_dict} if description else state_dict
