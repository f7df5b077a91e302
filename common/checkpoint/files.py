"""Writes, verifies, reads, finds and prunes checkpoint files; writing is atomic.

A file holds only tensors and plain containers, so that it loads with weights_only=True and runs no code.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
import zipfile
import zlib
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint.checkpoint import Checkpoint
from common.errors import UserError, first_line
from common.files import check_new_file, replacing

FAMILY = "tacotron2-waveglow/"
FORMAT = FAMILY + "6"
# What each version changed: 2, the order of parameters; 3, buffers; 4, names; 5 and 6, fields of Progress.
READABLE = tuple(f"{FAMILY}{version}" for version in range(1, 7))
RESUMABLE = READABLE[2:]
FILE_NAME = "step_{:08d}.pt"
BEST = "best.pt"
_FILE_PATTERN = re.compile(r"step_(\d{8,})\.pt")


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, complete or not at all."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save({"format": FORMAT, **checkpoint.to_dict()}, file)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy if the file system has no links."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def verify(path: Path) -> None:
    """Raise a UserError unless `path` is a file and, if it is an archive, its checksums match.

    torch.load does not check them.
    """
    if not path.is_file():
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise UserError(f"checkpoint {path}: no such file{where}; check the path")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise UserError(f"checkpoint {path}: damaged ({damaged} fails its checksum); use another one")
    except UserError:
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise UserError(
            f"checkpoint {path}: not a readable checkpoint ({first_line(error)}); use another one"
        ) from error


def is_ours(path: Path) -> bool:
    """True if this project wrote the file, in any version."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(FAMILY.encode() in archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


def load(path: str | Path, resumable: bool = False) -> Checkpoint:
    """Read and verify a checkpoint of this project on the CPU. With `resumable`, refuse one that cannot be resumed."""
    path = Path(path)
    verify(path)
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"checkpoint {path}: not a readable checkpoint (it is damaged, or not one of this project); use another one"
        )
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"checkpoint {path}: not a readable checkpoint ({first_line(error)}); use another one"
        ) from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError with a page of text
        raise UserError(f"checkpoint {path}: refused, it holds more than tensors ({first_line(error)})") from error
    check_format(path, contents.get("format") if isinstance(contents, dict) else None)
    try:
        checkpoint = Checkpoint.from_dict(contents)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"checkpoint {path}: incomplete ({error!r}); use another one") from error
    except UserError as error:
        raise UserError(f"checkpoint {path}: {error}") from error
    is_run = checkpoint.optimizer is not None and checkpoint.progress is not None
    if resumable and not (is_run and contents["format"] in RESUMABLE):
        what = "was written by a version whose training cannot be continued" if is_run else "holds only weights"
        raise UserError(f"checkpoint {path} {what}; start from it with init_from={path} and a new run_dir")
    return checkpoint


def check_format(path: Path, found: object) -> None:
    """Raise a UserError unless `found` is a format that this version reads."""
    if found not in READABLE:
        raise UserError(
            f"checkpoint {path}: its format is {found!r}, this version reads {FORMAT!r} and older ones; "
            "use a newer version of this project"
        )


def all_steps(directory: Path) -> list[Path]:
    """The step checkpoints in `directory`, oldest first."""
    return sorted((path for path in directory.glob("*.pt") if _FILE_PATTERN.fullmatch(path.name)), key=step_of)


def step_of(path: Path) -> int:
    """The step of a step checkpoint, from its name."""
    return int(path.stem.removeprefix("step_"))


def newest(directory: Path) -> Path | None:
    """The newest step checkpoint in `directory` that can be read; None if there are no step checkpoints.

    The others are skipped with a warning. If none can be read, a UserError is raised: a run must not silently start
    from the beginning.
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
    """Return `path`, or the newest step checkpoint in it if it is a run directory or a directory of checkpoints."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = newest(path / "checkpoints") or newest(path)
    if found is None:
        if (path / "log.jsonl").exists():
            raise UserError(f"{path}: the run has saved no checkpoint yet; see trainer.checkpoint_every_minutes")
        raise UserError(f"{path}: the directory holds no checkpoint (checkpoints/step_*.pt); train first")
    return found


def load_state(
    module: torch.nn.Module, state_dict: dict[str, Tensor], path: str | Path, cure: str, assign: bool = False
) -> None:
    """Load all weights, or raise a UserError with the keys that are missing, unexpected or of another shape.

    `assign` makes the given tensors the module's own, for a module on the meta device.
    """
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
    if assign:
        state_dict = {key: value.to(own[key].dtype).contiguous() for key, value in state_dict.items()}
    module.load_state_dict(state_dict, assign=assign)


def check_new_file_outside_runs(path: Path) -> None:
    """Raise a UserError unless `path` is a free name for a checkpoint that belongs to no run.

    A run would resume from it, or remove it like one of its own.
    """
    check_new_file(path, "OUT")
    if path.resolve().parent.name == "checkpoints" or (_FILE_PATTERN.fullmatch(path.name) and all_steps(path.parent)):
        raise UserError(f"{path} would be among the checkpoints of a run; write it to another directory")


def prune(directory: Path, keep_last: int, trusted: int) -> None:
    """Remove old step checkpoints, and the temporary files of killed saves.

    The `keep_last` newest stay, and the newest of a step up to `trusted`, since the newer ones may turn out to be bad.
    Only warn if a file cannot be removed: it takes up space, but the run can go on.
    """
    steps = all_steps(directory)
    good = [path for path in steps if step_of(path) <= trusted][-1:]
    old = [path for path in steps[:-keep_last] if path not in good]
    for path in [*old, *directory.glob(".*.pt.tmp")]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{path} could not be removed ({error.strerror or error}); remove it yourself", stacklevel=2)
