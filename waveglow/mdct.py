"""Groups of samples as overlapping cosines, the modified discrete cosine transform (Princen and Bradley, 1986).

A flow that works on blocks of samples leaves seams where they meet, and with 128 samples a group they are heard. This
transform is orthogonal, as long as its input, and each of its basis functions fades in and out over two groups: what
the flow does with a coefficient has no edges. Its log-determinant is 0.

Shapes: B batch, G groups, n samples in a group or coefficients, the lowest frequency first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def analyze(x: Tensor) -> Tensor:
    """Samples (B, G, n) -> coefficients (B, G, n). The two ends overlap with nothing."""
    return _cosines(_rotate(x, 1.0))


def synthesize(x: Tensor) -> Tensor:
    """Coefficients (B, G, n) -> samples (B, G, n)"""
    return _rotate(_cosines(x), -1.0)


def _cosines(x: Tensor) -> Tensor:
    """The discrete cosine transform of type IV, its own inverse; in the flow's own precision, as InvertibleConv is."""
    n = x.shape[2]
    k = torch.arange(n, dtype=torch.float64, device=x.device) + 0.5
    basis = math.sqrt(2 / n) * torch.cos(math.pi / n * k.unsqueeze(1) * k)
    with torch.autocast(x.device.type, enabled=False):
        return x @ basis.to(x.dtype)


def _rotate(x: Tensor, sign: float) -> Tensor:
    """Each pair of samples at one distance from a seam, turned by the angle of a sine window over two groups there."""
    n, half = x.shape[2], x.shape[2] // 2
    distance = torch.arange(half, dtype=torch.float64, device=x.device) + 0.5
    angle = math.pi / 2 * (0.5 + distance / n)
    sin, cos = angle.sin().to(x.dtype), (sign * angle.cos()).to(x.dtype)
    before, after = x[:, :-1, half:].flip(2), x[:, 1:, :half]  # by the distance
    new_before, new_after = sin * before - cos * after, cos * before + sin * after
    left = torch.cat((x[:, :1, :half], new_after), 1)
    right = torch.cat((new_before.flip(2), x[:, -1:, half:]), 1)
    return torch.cat((left, right), 2)
