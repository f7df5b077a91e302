"""Checkpoints: one file holds all that is needed to go on training or to speak.

A checkpoint is a dict: `format`, `model_name`, `model_config`, `audio_config`, `text` (symbols and cleaners, or None),
`state_dict`, and for resuming `optimizer`, `scaler`, `progress`, `rng` and the whole run's `config`. It holds only
tensors and plain containers, so that it loads with weights_only=True and runs no code.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from common.errors import UserError, first_line

FAMILY = "tacotron2-waveglow/"
FORMAT = FAMILY + "3"  # 2: WaveGlow's parameters in the reference's order; 3: Tacotron 2 with its sharpening
FILE_NAME = "step_{:08d}.pt"
BEST = "best.pt"
_FILE_PATTERN = re.compile(r"step_(\d{8,})\.pt")


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint of ours."""
    write(path, lambda file: torch.save({**checkpoint, "format": FORMAT}, file))


def write(path: Path, write_to: Callable[[IO[bytes]], object]) -> None:
    """Write atomically: a crash or a full disk leaves the older files as they were and no half-written one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write_to(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports some failed writes as RuntimeError
        raise UserError(f"{path}: the checkpoint was not saved ({first_line(error)}); free some space") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """A new name is safe from a power failure once its directory is on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file system has no links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
        _sync_directory(target.parent)
    except OSError as error:
        raise UserError(f"{target}: the checkpoint was not saved ({first_line(error)}); free some space") from error
    finally:
        temporary.unlink(missing_ok=True)


def verify(path: Path) -> None:
    """A UserError if `path` is not a file, or is an archive whose checksums do not hold; torch.load does not look."""
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file; check the path")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise UserError(f"checkpoint {path}: damaged ({damaged} fails its checksum); use another one")
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"checkpoint {path}: not a readable checkpoint ({first_line(error)})") from error


def is_ours(path: Path) -> bool:
    """True if the file says that this project wrote it, in this version's format or another's."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(FAMILY.encode() in archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


def load(path: str | Path) -> dict[str, Any]:
    """Read and verify a checkpoint of ours, on the CPU."""
    path = Path(path)
    verify(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"checkpoint {path}: not a readable checkpoint (it is damaged, or not one of this project)")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"checkpoint {path}: not a readable checkpoint ({first_line(error)})") from error
    except Exception as error:  # what weights_only refuses comes as pickle.UnpicklingError, with a page of text
        raise UserError(f"checkpoint {path}: refused, it holds more than tensors ({first_line(error)})") from error
    found = checkpoint.get("format") if isinstance(checkpoint, dict) else None
    if found != FORMAT:
        raise UserError(f"checkpoint {path}: not a checkpoint of this version (format {found!r}, not {FORMAT!r})")
    return checkpoint


def all_steps(directory: Path) -> list[Path]:
    """The step checkpoints in `directory`, oldest first."""
    found = [(int(match[1]), path) for path in directory.glob("*.pt") if (match := _FILE_PATTERN.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest(directory: Path) -> Path | None:
    """The newest step checkpoint in `directory` that can be read, None if there is none at all.

    Damaged ones are skipped with a warning; if all are damaged it is a UserError: nothing starts over silently.
    """
    problems = []
    for path in reversed(all_steps(directory)):
        try:
            load(path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; the older {path.name} is used", stacklevel=2)
        return path
    if problems:
        raise UserError("\n".join([*problems, f"no checkpoint in {directory} can be read; restore one or remove them"]))
    return None


def find(path: str | Path) -> Path:
    """`path` itself, or for a run directory its newest checkpoint."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = newest(path / "checkpoints") or newest(path)
    if found is None:
        raise UserError(f"{path}: the directory holds no checkpoint (checkpoints/step_*.pt); train first")
    return found


def load_state(module: torch.nn.Module, state_dict: dict[str, torch.Tensor], path: str | Path, cure: str) -> None:
    """Load every weight, or name the keys that are missing, unexpected or of another shape, and what to do."""
    own = module.state_dict()
    problems = [f"missing {key}" for key in own if key not in state_dict]
    problems += [f"unexpected {key}" for key in state_dict if key not in own]
    problems += [
        f"{key} is {tuple(value.shape)}, the model's is {tuple(own[key].shape)}"
        for key, value in state_dict.items()
        if key in own and own[key].shape != value.shape
    ]
    if problems:
        listed = "\n  ".join(problems[:10] + ([f"... and {len(problems) - 10} more"] if len(problems) > 10 else []))
        raise UserError(f"checkpoint {path} does not fit the model; {cure}:\n  {listed}")
    module.load_state_dict(state_dict)


def prune(directory: Path, keep_last: int) -> None:
    """Remove all but the `keep_last` newest step checkpoints, and what a killed save left behind.

    What cannot be removed is a warning: it costs space, not the run.
    """
    for path in [*all_steps(directory)[:-keep_last], *directory.glob(".*.pt.tmp")]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{path} could not be removed ({error.strerror or error}); remove it yourself", stacklevel=2)
