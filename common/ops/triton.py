"""Whether kernels written in Triton can run."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """True if what is computed from x may be a Triton kernel: on a GPU of Ampere's generation or later, whose
    processors have memory enough for it, in float32 or less."""
    return x.is_cuda and x.dtype != torch.float64 and torch.cuda.get_device_capability(x.device) >= (8, 0) and _works()


@functools.cache
def _works() -> bool:
    try:
        import triton

        assert triton.runtime.driver.active.utils  # compiled at its first use, which needs a C compiler
    except Exception as error:  # whatever it is, there is another way
        warnings.warn(
            f"Triton's kernels are off, which costs speed: {error!r}. They need Triton (pip install triton), a C "
            "compiler and Python's headers (apt-get install gcc python3-dev)",
            stacklevel=3,
        )
        return False
    return True
