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
def locked(directory: Path, key: str, patience: float = 0.0) -> Iterator[None]:
    """Lock an existing directory while the block runs.

    Raise a UserError if another process still holds the lock after `patience` seconds. The system releases the lock
    when a process ends, however it ends. `key` is the option that names the directory.
    """
    try:
        file = open(directory / LOCK_FILE, "a+", encoding="utf-8")  # noqa: SIM115 # it is closed below
    except OSError as error:
        raise UserError(f"{directory}: cannot be locked ({error.strerror}); choose another {key}") from error
    with file:
        try:
            _lock(file.fileno(), time.monotonic() + patience)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"{key}={directory} is in use by another command ({file.read().strip()}); wait for it, stop it, or "
                f"choose another {key}"
            ) from None
        except OSError as error:  # some network file systems have no locks
            warnings.warn(f"{directory} cannot be locked ({error.strerror}); let no other command use it", stacklevel=2)
        os.truncate(file.fileno(), 0)
        with contextlib.suppress(OSError):  # on a full disk, the lock names no process
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        _held.add(file.fileno())
        try:
            yield
        finally:
            _held.discard(file.fileno())


def _lock(descriptor: int, deadline: float) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, where only synthesis runs, has no such lock
        return
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)
