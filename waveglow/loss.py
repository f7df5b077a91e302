"""WaveGlow's training losses: the negative log-likelihood of the audio (Prenger et al., 2018, eq. 3), and beside it,
where data and time are short, a distance between what the model speaks and the recording."""

from __future__ import annotations

import torch
from torch import Tensor

from waveglow.model import WaveGlowOutput

WINDOWS = (256, 512, 1024, 2048)  # samples
COMPRESSION = 0.3  # of magnitudes: quiet parts count, but not as much as in a logarithm
FLOOR = 1e-7  # of a power


def waveglow_loss(output: WaveGlowOutput, sigma: float = 1.0) -> Tensor:
    """(sum z^2 / (2 sigma^2) - sum log_s - sum log_det) / numel(z), in float32, without the constant; a scalar."""
    z = output.z.float()
    log_s = torch.stack([log_s.float().sum() for log_s in output.log_s]).sum()
    log_det = torch.stack([log_det.float() for log_det in output.log_det]).sum()
    return (z.square().sum() / (2 * sigma**2) - log_s - log_det) / z.numel()


def spectral_loss(spoken: Tensor, audio: Tensor) -> Tensor:
    """How far the magnitudes of spoken (B, N) are from those of audio (B, N), whatever the phases; a scalar.

    A mean over STFTs of several resolutions (Yamamoto et al., 2020, eq. 6) of the spectral convergence and of the
    relative difference of compressed magnitudes.
    """
    parts = []
    for length in WINDOWS:
        window = torch.hann_window(length, device=audio.device)
        theirs, ours = (
            torch.view_as_real(torch.stft(x.float(), length, length // 4, window=window, return_complex=True))
            .square()
            .sum(3)
            .add(FLOOR)
            for x in (audio, spoken)
        )
        convergence = (ours.sqrt() - theirs.sqrt()).norm() / theirs.sqrt().norm()
        heard, wanted = ours ** (COMPRESSION / 2), theirs ** (COMPRESSION / 2)
        parts.append(convergence + 2 * (heard - wanted).abs().mean() / wanted.mean())
    return torch.stack(parts).mean()
