"""Dropout whose masks cost little on a CPU, where drawing them one by one takes longer than the layers around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

LEVELS = 2**16  # probabilities are multiples of 1 / LEVELS


def draw_kept(shape: Sequence[int], p: float, device: torch.device) -> Tensor:
    """A bool mask, True with the probability 1 - p. On CPUs four elements share a 64-bit random number."""
    if device.type != "cpu":
        return torch.empty(*shape, dtype=torch.bool, device=device).bernoulli_(1 - p)
    count = torch.Size(shape).numel()
    lowest = -(2**63)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(lowest, None)  # all 64 bits
    return (bits.view(torch.int16)[:count] >= round(p * LEVELS) - LEVELS // 2).view(*shape)


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """x with elements set to 0 with the probability p and the others scaled to keep the mean."""
    return x * draw_kept(x.shape, p, x.device) * (1 / (1 - p)) if training and p else x


class TanhDropout(Function):
    """tanh(x) where kept, scaled, else 0; in the memory of x, and nothing but the result is kept for the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        x.tanh_().mul_(kept).mul_(scale)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, kept)
        ctx.scale = scale
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, None, None]:
        out, kept = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(d_out * ctx.scale, out / ctx.scale).mul_(kept), None, None
