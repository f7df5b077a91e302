"""WaveGlow's gate, tanh(a) * sigmoid(b) (Prenger et al., 2018), with a backward pass written by hand.

On GPUs, waveglow/gate_triton.py computes both, each in one pass over memory.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from common.ops.autograd import to_overwrite
from common.ops.triton import runs_kernels


def activate(x: Tensor, condition: Tensor, out: Tensor) -> None:
    """Replace the halves of x (R, 2 C) by tanh and sigmoid of x + condition; write their product to out (R, C)."""
    x += condition
    tanh, sigmoid = x.chunk(2, 1)
    tanh.mul_(2)  # tanh(x) = 2 sigmoid(2 x) - 1, and CPUs compute a sigmoid several times faster
    x.sigmoid_()
    tanh.mul_(2).sub_(1)
    torch.mul(tanh, sigmoid, out=out)


def activate_backward(activations: Tensor, d_out: Tensor) -> None:
    """Replace the activations (R, 2 C) that `activate` left in x by the gradient of x."""
    tanh, sigmoid = activations.chunk(2, 1)
    d_tanh = torch.ops.aten.tanh_backward(d_out * sigmoid, tanh)
    torch.ops.aten.sigmoid_backward.grad_input(d_out * tanh, sigmoid, grad_input=sigmoid)
    tanh.copy_(d_tanh)


def _ops(x: Tensor) -> ModuleType:
    """Return the module that has both functions for the device of x."""
    if not runs_kernels(x):
        return sys.modules[__name__]
    from waveglow import gate_triton

    return gate_triton


class Gate(Function):
    """x and condition (R, 2 C), which may have gaps between their rows -> (R, C).

    It overwrites x, so the operation that produced x must not need it in its own backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, condition: Tensor) -> Tensor:
        out = x.new_empty(len(x), x.shape[1] // 2)
        with torch.cuda.device_of(x):
            _ops(x).activate(x, condition, out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor]:
        (activations,) = ctx.saved_tensors
        gradient, d_out = to_overwrite(activations), d_out.contiguous()
        with torch.cuda.device_of(gradient):
            _ops(gradient).activate_backward(gradient, d_out)
        return gradient, gradient
