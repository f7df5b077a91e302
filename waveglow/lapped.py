"""Groups of samples as overlapping cosines, the modified discrete cosine transform (Princen and Bradley, 1986).

A flow that works on blocks of samples leaves seams where they meet, and with 128 samples a group they are heard. This
transform is orthogonal, as long as its input, and each of its basis functions fades in and out over two groups: what
the flow does with a coefficient has no edges. Its log-determinant is 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LappedTransform(nn.Module):
    """x (B, G, n) samples <-> (B, G, n) coefficients, the lowest frequency first. The two ends overlap with nothing."""

    cos: Tensor
    sin: Tensor
    basis: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        distance = torch.arange(n // 2, dtype=torch.float64) + 0.5  # of a sample from the seam
        angle = math.pi / 2 * (0.5 + distance / n)  # of a sine window over two groups
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)
        k = torch.arange(n, dtype=torch.float64) + 0.5
        dct = math.sqrt(2 / n) * torch.cos(math.pi / n * torch.outer(k, k))  # type IV, which is its own inverse
        self.register_buffer("basis", dct.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._transform(self._rotate(x, self.cos))

    def inverse(self, x: Tensor) -> Tensor:
        return self._rotate(self._transform(x), -self.cos)

    def _transform(self, x: Tensor) -> Tensor:
        """In the flow's own precision, also under autocast, as in InvertibleConv."""
        with torch.autocast(x.device.type, enabled=False):
            return x @ self.basis.to(x.dtype)

    def _rotate(self, x: Tensor, cos: Tensor) -> Tensor:
        """Each pair of samples at one distance from a seam, turned by its angle; `cos` < 0 turns them back."""
        half = x.shape[2] // 2
        before, after = x[:, :-1, half:].flip(2), x[:, 1:, :half]  # by the distance
        sin, cos = self.sin.to(x.dtype), cos.to(x.dtype)
        new_before, new_after = sin * before - cos * after, cos * before + sin * after
        left = torch.cat((x[:, :1, :half], new_after), 1)
        right = torch.cat((new_before.flip(2), x[:, -1:, half:]), 1)
        return torch.cat((left, right), 2)
