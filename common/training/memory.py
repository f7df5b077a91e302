"""Turns "out of memory" into an error that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.errors import UserError, first_line


@contextmanager
def memory_errors(cure: str) -> Iterator[None]:
    """Raise a UserError with the cure if a GPU or the machine runs out of memory in the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and not re.search(r"not enough memory|can't allocate memory|out of memory", str(error)):
            raise
        raise UserError(f"out of memory ({first_line(error) or 'the machine has no more'}): {cure}") from error
