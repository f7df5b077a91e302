"""Whether kernels written in Triton can run."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import warnings

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """True if what is computed from x may be a Triton kernel: on a GPU, in float32 or less."""
    return x.is_cuda and x.dtype != torch.float64 and _has_triton()


@functools.cache
def _has_triton() -> bool:
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    if importlib.util.find_spec("triton") is None:
        missing = "Triton; pip install triton"
    elif not any(shutil.which(compiler) for compiler in compilers if compiler):
        missing = "a C compiler, which Triton needs to load its kernels; apt-get install gcc, or set CC"
    else:
        return True
    warnings.warn(f"without the kernels for GPUs all is slower: there is not {missing}", stacklevel=3)
    return False
