"""Dropout with masks that are cheap on a CPU, where drawing each element takes longer than the layers around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# One for a batch, or one for each of its utterances; None in a list: no dropout for that utterance.
Generators = torch.Generator | list[torch.Generator | None] | None
LEVELS = 2**16  # on CPUs, probabilities are multiples of 1 / LEVELS


def draw_kept(shape: Sequence[int], p: float, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """A bool mask that is True with probability 1 - p. On CPUs four elements share one 64-bit random number.

    Without a generator the numbers come from PyTorch's global one, as in torch.rand.
    """
    if device.type != "cpu":
        return torch.empty(*shape, dtype=torch.bool, device=device).bernoulli_(1 - p, generator=generator)
    count = torch.Size(shape).numel()
    lowest = -(2**63)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(lowest, None, generator=generator)  # all 64 bits
    return (bits.view(torch.int16)[:count] >= round(p * LEVELS) - LEVELS // 2).view(*shape)


def draw_factors(
    shape: Sequence[int], p: float, device: torch.device, generator: Generators, dtype: torch.dtype, batch_dim: int = 0
) -> Tensor:
    """What dropout multiplies by: 0 or, to keep the mean, 1 / (1 - p). Of a list, each generator draws the numbers of
    one place in the dimension `batch_dim`; None stands for ones."""
    if not isinstance(generator, list):
        return draw_kept(shape, p, device, generator).to(dtype) / (1 - p)
    rest = [size for dim, size in enumerate(shape) if dim != batch_dim]
    ones = torch.ones(rest, dtype=dtype, device=device)
    factors = [ones if own is None else draw_factors(rest, p, device, own, dtype) for own in generator]
    return torch.stack(factors, batch_dim)


def dropout(x: Tensor, p: float, generator: Generators) -> Tensor:
    """x with each element set to 0 with probability p, and the others scaled to keep the mean."""
    return x * draw_factors(x.shape, p, x.device, generator, x.dtype) if p else x


class TanhDropout(Function):
    """tanh(x) * scale where kept, else 0. It overwrites x and saves only its result and the mask for backward."""

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
