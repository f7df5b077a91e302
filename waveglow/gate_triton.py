"""WaveGlow's gate on GPUs, in Triton: the functions of waveglow/gate.py, one kernel each (tests/test_triton.py)."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512


@triton.jit
def _activate(x, condition, out, size, x_row, condition_row, out_row, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < size
    at, more = x + row * x_row + column, condition + row * condition_row + column
    a = tl.load(at, mask).to(tl.float32) + tl.load(more, mask).to(tl.float32)
    b = tl.load(at + size, mask).to(tl.float32) + tl.load(more + size, mask).to(tl.float32)
    tanh, sigmoid = 2 * tl.sigmoid(2 * a) - 1, tl.sigmoid(b)
    tl.store(at, tanh, mask)
    tl.store(at + size, sigmoid, mask)
    tl.store(out + row * out_row + column, tanh * sigmoid, mask)


def activate(x: Tensor, condition: Tensor, out: Tensor) -> None:
    """See gate.activate."""
    rows, size = out.shape
    _activate[(rows, triton.cdiv(size, BLOCK))](
        x, condition, out, size, x.stride(0), condition.stride(0), out.stride(0), block=BLOCK
    )


@triton.jit
def _activate_backward(activations, d_out, size, activations_row, d_out_row, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * block + tl.arange(0, block)
    mask = column < size
    at = activations + row * activations_row + column
    tanh, sigmoid = tl.load(at, mask).to(tl.float32), tl.load(at + size, mask).to(tl.float32)
    gradient = tl.load(d_out + row * d_out_row + column, mask).to(tl.float32)
    tl.store(at, gradient * sigmoid * (1 - tanh * tanh), mask)
    tl.store(at + size, gradient * tanh * sigmoid * (1 - sigmoid), mask)


def activate_backward(activations: Tensor, d_out: Tensor) -> None:
    """See gate.activate_backward."""
    rows, size = d_out.shape
    _activate_backward[(rows, triton.cdiv(size, BLOCK))](
        activations, d_out, size, activations.stride(0), d_out.stride(0), block=BLOCK
    )
