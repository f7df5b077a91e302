"""Helpers that tests share."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parent.parent.parent
Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], seconds: float = 60, pause: float = 0.01) -> Found:
    """Wait until `condition()` is true, and return what it returned. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(pause)
    return found
