"""Files of tests/golden: what the reference's own code wrote and computed."""

from __future__ import annotations

import functools
import lzma
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.helpers import REPOSITORY

GOLDEN = REPOSITORY / "tests" / "golden"
_UNPACKED = tempfile.TemporaryDirectory()


@functools.cache
def golden_path(name: str) -> Path:
    """A file of tests/golden, unpacked."""
    path = Path(_UNPACKED.name) / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def golden(name: str) -> dict[str, Any]:
    """The contents of such a file: tensors and containers."""
    contents: dict[str, Any] = torch.load(golden_path(name), weights_only=True)
    return contents
