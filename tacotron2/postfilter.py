"""A global-variance postfilter, which gives predicted mels the variance of recorded ones.

A model that is trained to be right on average predicts averages: its mels are smoother than those of speech, most of
all in fine detail, and sound muffled. The postfilter therefore scales each coefficient of the mel's cepstrum around its
mean, by a factor measured in validation (Toda and Tokuda, 2007; as a scaling: Silen et al., 2012).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_GAIN = 3.0


def cosines(n: int, device: torch.device | None = None) -> Tensor:
    """Return the orthonormal discrete cosine transform of type II (n, n): cepstrum = cosines(n_mels) @ mel"""
    k = torch.arange(n, dtype=torch.float64, device=device)
    basis = math.sqrt(2 / n) * torch.cos(math.pi / n * k.unsqueeze(1) * (k + 0.5))
    return torch.where(k.unsqueeze(1) > 0, basis, math.sqrt(1 / n)).float()


class Postfilter(nn.Module):
    """mel (..., n_mels, T) -> mel of the same shape; the identity until `measure` is called.

    The measured values are buffers, stored with the weights.
    """

    mean: Tensor  # (n_mels) mean of predicted mels
    gain: Tensor  # (n_mels) gain of each coefficient of the cepstrum, 1 or more

    strength = 1.0  # 0: the identity

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("gain", torch.ones(n_mels))

    @torch.no_grad()
    def measure(self, predicted: Tensor, recorded: Tensor) -> None:
        """Set mean and gain from predicted and recorded mels of the same speech, both (n_mels, N), N frames."""
        basis = cosines(len(self.gain), self.gain.device)
        gain = (basis @ recorded.float()).std(1) / (basis @ predicted.float()).std(1).clamp(min=1e-5)
        self.gain.copy_(gain.nan_to_num(1.0).clamp(1.0, MAX_GAIN))
        self.mean.copy_(predicted.float().mean(1).nan_to_num())

    def forward(self, mel: Tensor) -> Tensor:
        with torch.autocast(mel.device.type, enabled=False):
            basis, gain = cosines(len(self.gain), mel.device), self.gain.float()
            more = basis.T @ (self.strength * (gain - 1).unsqueeze(1) * basis)
            return mel + (more @ (mel.float() - self.mean.float().unsqueeze(1))).to(mel.dtype)
