"""Running out of memory, said in a way that helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from common.errors import UserError, first_line


@contextmanager
def memory_errors(cure: str) -> Iterator[None]:
    """Turn "out of memory", of a GPU or of the machine, into a UserError with the cure."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_memory and not re.search(r"not enough memory|can't allocate memory|out of memory", str(error)):
            raise
        raise UserError(f"out of memory ({first_line(error) or 'the machine has no more'}): {cure}") from error
