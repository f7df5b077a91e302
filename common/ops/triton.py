"""Whether Triton kernels can run here."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor


def runs_kernels(x: Tensor) -> bool:
    """True if a Triton kernel can process x.

    x must not be float64, and must be on a GPU of the Ampere generation or later, which has enough shared memory.
    """
    return x.is_cuda and x.dtype != torch.float64 and torch.cuda.get_device_capability(x.device) >= (8, 0) and _works()


@functools.cache
def _works() -> bool:
    try:
        import triton

        assert triton.runtime.driver.active.utils  # compiled at first use, which needs a C compiler
    except Exception as error:  # whatever the reason, plain PyTorch takes over
        warnings.warn(
            f"Triton kernels are off, which costs speed: {error!r}. They need Triton (pip install triton), a C "
            "compiler and Python's headers (apt-get install gcc python3-dev)",
            stacklevel=3,
        )
        return False
    return True
