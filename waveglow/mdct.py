"""The modified discrete cosine transform (MDCT) of groups of samples (Princen and Bradley, 1986).

A flow over groups of samples leaves seams where two groups meet, which are audible with 128 samples in a group. The
basis functions of this transform fade in and out over two groups, so that an error in a coefficient has no edges. The
transform is orthogonal and keeps the length; its log-determinant is 0.

Shapes: B batch, G groups, n samples in a group, or its n coefficients from the lowest frequency to the highest.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mdct(x: Tensor) -> Tensor:
    """Samples (B, G, n) -> coefficients (B, G, n). The first and the last half group do not overlap."""
    return _dct_iv(_rotate(x, 1.0))


def inverse_mdct(x: Tensor) -> Tensor:
    """Coefficients (B, G, n) -> samples (B, G, n)"""
    return _rotate(_dct_iv(x), -1.0)


def _dct_iv(x: Tensor) -> Tensor:
    """The discrete cosine transform of type IV, its own inverse. It keeps the precision of x, also under autocast."""
    n = x.shape[2]
    k = torch.arange(n, dtype=torch.float64, device=x.device) + 0.5
    basis = math.sqrt(2 / n) * torch.cos(math.pi / n * k.unsqueeze(1) * k)
    with torch.autocast(x.device.type, enabled=False):
        return x @ basis.to(x.dtype)


def _rotate(x: Tensor, sign: float) -> Tensor:
    """Rotate each pair of samples at equal distance from a seam by the angle of a sine window that spans two groups."""
    n, half = x.shape[2], x.shape[2] // 2
    distance = torch.arange(half, dtype=torch.float64, device=x.device) + 0.5
    angle = math.pi / 2 * (0.5 + distance / n)
    sin, cos = angle.sin().to(x.dtype), (sign * angle.cos()).to(x.dtype)
    before, after = x[:, :-1, half:].flip(2), x[:, 1:, :half]  # ordered by distance
    new_before, new_after = sin * before - cos * after, cos * before + sin * after
    left = torch.cat((x[:, :1, :half], new_after), 1)
    right = torch.cat((new_before.flip(2), x[:, -1:, half:]), 1)
    return torch.cat((left, right), 2)
