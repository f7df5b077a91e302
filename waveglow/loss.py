"""WaveGlow's training loss: the negative log-likelihood of the audio (Prenger et al., 2018, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from waveglow.model import WaveGlowOutput


def waveglow_loss(output: WaveGlowOutput, sigma: float = 1.0) -> Tensor:
    """(sum z^2 / (2 sigma^2) - sum log_s - sum log_det) / numel(z), in float32, without the constant; a scalar."""
    z = output.z.float()
    log_s = torch.stack([log_s.float().sum() for log_s in output.log_s]).sum()
    log_det = torch.stack([log_det.float() for log_det in output.log_det]).sum()
    return (z.square().sum() / (2 * sigma**2) - log_s - log_det) / z.numel()
