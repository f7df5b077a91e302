"""Allows one run at a time in a run directory."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from common.files import make_directory

FILE_NAME = ".lock"
PATIENCE = 5.0  # seconds: after a restart the previous run may still be ending


@contextmanager
def run_lock(run_dir: str | Path) -> Iterator[None]:
    """Lock `run_dir` while the block runs; raise a UserError if another process holds the lock.

    The system releases the lock when a process ends, however it ends.
    """
    path = Path(run_dir) / FILE_NAME
    make_directory(path.parent, "run_dir")
    with open(path, "a+") as file:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(
                        f"run_dir={run_dir} is in use by another run ({file.read().strip()}); wait for it, stop it, or "
                        "choose another run_dir"
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
