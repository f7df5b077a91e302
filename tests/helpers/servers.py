"""Run a server of speech as a user does: in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import REPOSITORY

PATIENCE = 120  # seconds until a server is ready, or has ended, on a busy machine


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(command: Sequence[object], port: int, cwd: Path = REPOSITORY, **environment: str) -> Iterator[str]:
    """Run `command`, which must serve at `port`; yield the address when it is ready. SIGTERM must end it."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_until_ready(url, process)
            yield url
            process.terminate()
            assert process.wait(PATIENCE) in (0, -signal.SIGTERM)
        except BaseException as error:
            log.seek(0)
            error.add_note(log.read())
            raise
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(PATIENCE * 10):
        assert process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("the server does not become ready")
