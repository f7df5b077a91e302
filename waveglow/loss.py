"""WaveGlow's training losses: the negative log-likelihood of the audio (Prenger et al., 2018) and, for little
data and time, a spectral distance between synthesized and recorded audio."""

from __future__ import annotations

import torch
from torch import Tensor

from waveglow.model import WaveGlowOutput

WINDOWS = (256, 512, 1024, 2048)  # samples
COMPRESSION = 0.3  # exponent for magnitudes: quiet parts count, but less than with a logarithm
FLOOR = 1e-7  # added to powers


def waveglow_loss(output: WaveGlowOutput, sigma: float = 1.0) -> Tensor:
    """(sum z^2 / (2 sigma^2) - sum log_s - sum log_det) / numel(z), in float32, without the constant; a scalar."""
    z = output.z.float()
    log_s = torch.stack([log_s.float().sum() for log_s in output.log_s]).sum()
    log_det = torch.stack([log_det.float() for log_det in output.log_det]).sum()
    return (z.square().sum() / (2 * sigma**2) - log_s - log_det) / z.numel()


def spectral_loss(synthesized: Tensor, audio: Tensor) -> Tensor:
    """Return the distance between the magnitudes of synthesized (B, N) and audio (B, N), a scalar. It ignores phases.

    It is the mean, over STFTs of several resolutions (Yamamoto et al., 2020, eq. 6), of the spectral convergence plus
    twice the relative difference of compressed magnitudes.
    """
    parts = []
    for length in WINDOWS:
        window = torch.hann_window(length, device=audio.device)
        target, found = (
            torch.view_as_real(torch.stft(x.float(), length, length // 4, window=window, return_complex=True))
            .square()
            .sum(3)
            .add(FLOOR)
            for x in (audio, synthesized)
        )
        convergence = (found.sqrt() - target.sqrt()).norm() / target.sqrt().norm()
        found, target = found ** (COMPRESSION / 2), target ** (COMPRESSION / 2)
        parts.append(convergence + 2 * (found - target).abs().mean() / target.mean())
    return torch.stack(parts).mean()
