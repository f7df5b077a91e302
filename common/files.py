"""Writing files and directories: each appears complete or not at all, and nothing is overwritten by accident."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError, first_line
from common.lock import LOCK_FILE, locked


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a UserError with the cure if the block, which writes to `path`, fails: because of a full disk, say."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError for some failed writes
        raise UserError(f"{path}: not written ({first_line(error)}); free some space or check the path") from error


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; the file that the block writes there then replaces `path`.

    After a crash, a full disk or an error in the block, `path` is unchanged. With `durable`, the file is flushed to the
    disk before it replaces `path`, so that it survives a power failure. Raises UserError if writing fails.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        temporary.unlink(missing_ok=True)
        try:
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
            if durable:
                sync(path.parent)  # the new name
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, without the lines that hold none, such as one that a crash has cut off."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict):
                yield row


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All of `json_lines`."""
    return list(json_lines(path))


def require_space(folder: Path, needed: float, key: str) -> None:
    """Raise a UserError if `folder` will not hold `needed` bytes: those in it, but for what is kept as NAME.old, and
    what is free on its disk. The folder need not exist."""
    sizes: dict[int, int] = {}
    for file in folder.rglob("*"):
        if not re.search(r"\.old\d*(/|$)", file.relative_to(folder).as_posix()):
            with suppress(FileNotFoundError):  # it was temporary
                state = file.lstat()
                sizes[state.st_ino] = state.st_blocks * 512  # a file of two names counts once
    held = sum(sizes.values())
    disk = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(disk).free) + held < needed:
        raise UserError(
            f"{key}={folder}: {free / 1e6:,.0f} MB are free there, and about {(needed - held) / 1e6:,.0f} MB are "
            f"needed; free some space, or set {key}= to a folder on another disk"
        )


def make_directory(path: Path, key: str) -> None:
    """Create a directory and check that files can be written to it; `key` is the option that names it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{socket.gethostname()}-{os.getpid()}"  # in containers, processes share their numbers
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written to ({error.strerror or error}); choose another {key}") from error


def refuse_existing(paths: Iterable[Path], cure: str) -> None:
    """Raise a UserError with the cure if one of `paths` exists."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path} exists already; {cure}")


def check_new_file(path: Path, name: str) -> None:
    """Raise a UserError unless `path` is free and its directory exists; `name` is what messages call the file."""
    refuse_existing([path], f"choose another name for {name} or remove it")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such directory; create it first")


@contextmanager
def new_directory(path: Path, key: str) -> Iterator[Path]:
    """Yield an empty temporary directory that becomes `path` when the block ends, and is removed if it fails.

    Only one process at a time can make the same directory.
    """
    part = path.with_name(f"{path.name}.part")
    refuse_existing([path], f"choose another {key} or remove it")
    make_directory(part, key)
    with locked(part, key):
        refuse_existing([path], f"choose another {key} or remove it")  # another process may just have made it
        try:
            for rest in part.iterdir():  # of a process that was killed
                if rest.is_dir() and not rest.is_symlink():
                    shutil.rmtree(rest)
                elif rest.name != LOCK_FILE:
                    rest.unlink()
            yield part
            (part / LOCK_FILE).unlink(missing_ok=True)
            part.rename(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
