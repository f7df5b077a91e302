"""Access to the golden files in tests/golden, most of them computed by the reference's own code."""

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
    """Decompress a file of tests/golden and return the path of the result."""
    path = Path(_UNPACKED.name) / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def golden(name: str) -> dict[str, Any]:
    """Load a file of tests/golden: tensors in containers."""
    contents: dict[str, Any] = torch.load(golden_path(name), weights_only=True)
    return contents
