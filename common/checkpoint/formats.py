"""Reads checkpoints of any layout, and writes ours in the reference's layout or as safetensors.

Layouts: ours; safetensors; NVIDIA DeepLearningExamples' {state_dict, config, ...}; the original repositories'
{state_dict, ...} and {model: a pickled module, ...}; a bare state_dict. The reference.py of each model knows its keys.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.checkpoint import files, unpickle
from common.checkpoint.checkpoint import Checkpoint, Progress
from common.errors import UserError, first_line
from common.files import replacing
from common.schema import from_dict
from common.spec import ModelSpec

SAFETENSORS = ".safetensors"
DESCRIPTION = ("model_name", "model_config", "audio_config", "text")  # in the metadata of safetensors
_WRAPPERS = re.compile(r"^(module\.|1\.|_orig_mod\.)+")  # prefixes by DistributedDataParallel, apex and torch.compile


def load(path: str | Path, specs: Iterable[ModelSpec]) -> Checkpoint:
    """Read a checkpoint of any layout, or the newest one of a run directory.

    If the run keeps averaged weights, they replace those in `state_dict`. Raise a UserError if the file holds none of
    the models in `specs`.
    """
    path = files.find(path)
    files.verify(path)
    specs = list(specs)
    if files.is_ours(path):
        checkpoint = files.load(path)
    elif path.suffix == SAFETENSORS:
        checkpoint = _load_safetensors(path, specs)
    else:
        checkpoint = _from_reference(unpickle.load(path), path, specs)
    spec = next((spec for spec in specs if spec.name == checkpoint.model_name), None)
    if spec is None:
        names = " or a ".join(spec.name for spec in specs)
        raise UserError(f"checkpoint {path} holds a {checkpoint.model_name}; use one that holds a {names}")
    checkpoint = checkpoint.with_present_names(spec)
    try:
        added = spec.reference.added_weights(from_dict(spec.config_class, checkpoint.model_config))
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    weights = checkpoint.state_dict | checkpoint.average
    missing = {key: value for key, value in added.items() if key not in weights}
    return dataclasses.replace(checkpoint, state_dict=weights | missing)


class Uninitialized(TorchFunctionMode):
    """Leaves out the drawing of weights. On the meta device it has no effect, but PyTorch imports its compiler to find
    that out, which takes a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def build(checkpoint: Checkpoint, path: str | Path, specs: Iterable[ModelSpec], **overrides: Any) -> nn.Module:
    """The model of `checkpoint`, in eval mode; `overrides` replace fields of its config."""
    spec = next(spec for spec in specs if spec.name == checkpoint.model_name)
    config = from_dict(spec.config_class, checkpoint.model_config | overrides)
    with Uninitialized(), torch.device("meta"):  # initializing weights would cost time and random numbers
        model = spec.model_class(config)
    cure = "use a complete checkpoint of this model, and no overrides that change sizes"
    files.load_state(model, checkpoint.state_dict, path, cure, assign=True)
    return model.eval()


def _from_reference(raw: Any, path: Path, specs: Sequence[ModelSpec]) -> Checkpoint:
    state_dict, settings = _weights(raw, path)
    spec = next((spec for spec in specs if spec.reference.recognizes(state_dict)), None)
    if spec is None:
        listed = ", ".join(list(state_dict)[:3])
        names = " or a ".join(spec.name for spec in specs)
        raise UserError(f"checkpoint {path}: its weights ({listed}, ...) are not those of a {names}")
    try:
        checkpoint = spec.reference.from_reference(state_dict, settings)
    except KeyError as error:
        raise UserError(f"checkpoint {path}: its {spec.name} lacks {error}; is the file complete?") from error
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    except (TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:  # of no such model
        raise UserError(f"checkpoint {path}: not a {spec.name} of a known layout ({first_line(error)})") from error
    epoch = raw.get("epoch") if isinstance(raw, dict) else None
    progress = Progress(epoch=epoch + 1) if isinstance(epoch, int) else None  # kept for converting back
    return dataclasses.replace(checkpoint, progress=progress)


def _weights(raw: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return two dicts: the weights, by their names without wrapper prefixes, and the settings.

    Settings are the model's constructor arguments, or the attributes of a pickled module.
    """
    settings: Any = {}
    for key in ("state_dict", "model"):
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            settings, raw = raw.get("config"), raw[key]
            break
    if isinstance(raw, unpickle.Foreign) and "_modules" in raw.attributes:
        raw, settings = unpickle.flatten(raw)
    items = raw.items() if isinstance(raw, dict) else ()
    weights = {_WRAPPERS.sub("", str(key)): value for key, value in items if isinstance(value, Tensor)}
    if not weights:
        raise UserError(f"checkpoint {path}: no weights were found; it needs a state_dict, or a pickled module")
    return weights, settings if isinstance(settings, dict) else {}


# ---- from ours to others ----


def save_reference(checkpoint: Checkpoint, path: Path, spec: ModelSpec) -> None:
    """Write `checkpoint` in the layout of NVIDIA DeepLearningExamples, whose training can resume from it.

    Optimizer, loss scale, epoch and random states come from the checkpoint if it has them, otherwise they are new.
    """
    config, state_dict = spec.reference.to_reference(checkpoint)
    fresh = torch.optim.Adam(build(checkpoint, path, [spec]).parameters()).state_dict()
    no_cpu, no_cuda = torch.Generator().get_state(), torch.zeros(16, dtype=torch.uint8)
    rng = checkpoint.rng or [{}]
    optimizer = checkpoint.optimizer or fresh
    for group in optimizer["param_groups"]:
        group["fused"] = None  # the program that resumes chooses the kernels
    written = {
        "epoch": (checkpoint.progress or Progress()).epoch - 1,  # the last finished one
        "cuda_rng_state_all": torch.stack([state.get("cuda", no_cuda) for state in rng]),
        "random_rng_states_all": torch.stack([state.get("cpu", no_cpu) for state in rng]),
        "config": config,
        "state_dict": state_dict,
        "optimizer": optimizer,
        "scaler": checkpoint.scaler,
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(written, file)


def lost_in_reference(checkpoint: Checkpoint, spec: ModelSpec) -> list[str]:
    """List the parts of `checkpoint` that differ from what the reference assumes and that its layout cannot store."""
    config, state_dict = spec.reference.to_reference(checkpoint)
    back = spec.reference.from_reference(state_dict, config)
    ours, theirs = dataclasses.asdict(checkpoint.audio), dataclasses.asdict(back.audio)
    lost = [f"audio.{key}={value}" for key, value in ours.items() if theirs[key] != value]
    settings = checkpoint.model_config
    changed = [key for key in spec.for_synthesis if settings.get(key) != back.model_config.get(key)]
    lost += [f"model.{key}={settings[key]}" for key in changed]
    standard = spec.reference.added_weights(from_dict(spec.config_class, settings))
    dropped = checkpoint.state_dict.keys() - state_dict
    lost += sorted({f"its {key.split('.')[0]}" for key in dropped if not _equal(checkpoint.state_dict, standard, key)})
    if checkpoint.text and back.text and checkpoint.text.cleaners != back.text.cleaners:
        lost.append(f"cleaners {checkpoint.text.cleaners}")
    if checkpoint.text and back.text and checkpoint.text.symbols != back.text.symbols:
        lost.append("its symbols")
    return lost


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor], key: str) -> bool:
    return key in b and torch.equal(a[key], b[key])


def save_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Write the weights, with the description of the model as JSON in the file's metadata."""
    description = {key: json.dumps(value) for key, value in checkpoint.description().items()}
    tensors = {key: tensor.contiguous().clone() for key, tensor in checkpoint.state_dict.items()}
    data = safetensors.torch.save(tensors, {"format": files.FORMAT, **description})
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def _load_safetensors(path: Path, specs: Sequence[ModelSpec]) -> Checkpoint:
    """Read our checkpoint or, if the file lacks our metadata, bare weights with the reference's names."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state_dict = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        found = metadata.get("format", "")
        if not found.startswith(files.FAMILY):
            return _from_reference(state_dict, path, specs)
        files.check_format(path, found)
        description = {key: json.loads(metadata[key]) for key in DESCRIPTION}
        return Checkpoint.from_dict({**description, "state_dict": state_dict})
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {path}: not a readable safetensors file ({first_line(error)})") from error
