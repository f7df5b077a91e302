"""A lock on a directory."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

LOCK_FILE = ".lock"
_held: set[int] = set()  # descriptors of locks that this process holds


def _leave_to_parent() -> None:
    """In a forked process: drop its share of the locks, which it would hold as long as it lives, even as an orphan."""
    for descriptor in _held:
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def locked(directory: Path, key: str, patience: float = 0.0, name: str = LOCK_FILE, group: str = "") -> Iterator[None]:
    """Lock an existing directory while the block runs.

    Raise a UserError if another process still holds the lock after `patience` seconds. The system releases the lock
    when a process ends, however it ends. `key` is the option that names the directory. Processes of the same `group`
    hold the lock together. `name` is the file that is locked.
    """
    try:
        file = open(directory / name, "a+", encoding="utf-8")  # noqa: SIM115 # it is closed below
    except OSError as error:
        raise UserError(f"{directory}: cannot be locked ({error.strerror}); choose another {key}") from error
    with file:
        descriptor, holder = file.fileno(), group or f"process {os.getpid()} on {socket.gethostname()}"
        try:
            _lock(descriptor, time.monotonic() + patience, holder, bool(group))
        except BlockingIOError:
            raise UserError(
                f"{key}={directory} is in use by another command ({_holder(descriptor)}); wait for it, stop it, or "
                f"choose another {key}"
            ) from None
        except OSError as error:  # some network file systems have no locks
            warnings.warn(f"{directory} cannot be locked ({error.strerror}); let no other command use it", stacklevel=2)
            _name(descriptor, holder)
        _held.add(descriptor)
        try:
            yield
        finally:
            _held.discard(descriptor)


def _lock(descriptor: int, deadline: float, holder: str, shared: bool) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where only synthesis runs, has no such lock
        return _name(descriptor, holder)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _name(descriptor, holder)
            if not shared:
                return
        except BlockingIOError:
            if not shared and time.monotonic() > deadline:
                raise
        if shared:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if _holder(descriptor) == holder:  # it may change between the two locks
                    return
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            if time.monotonic() > deadline:
                raise BlockingIOError
        time.sleep(0.2)


def _name(descriptor: int, holder: str) -> None:
    os.truncate(descriptor, 0)
    with contextlib.suppress(OSError):  # on a full disk, the lock names no process
        os.write(descriptor, f"{holder}\n".encode())


def _holder(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 1000).decode(errors="replace").strip()
