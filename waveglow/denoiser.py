"""Spectral subtraction of the constant hum that a WaveGlow adds to its audio."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.audio import STFT
from waveglow.model import WaveGlow

NUM_FRAMES = 88  # length of the all-zero mel whose audio is the model's hum


class Denoiser(nn.Module):
    """audio (B, N) -> audio (B, N), with `strength` times the hum's spectrum subtracted from the magnitudes."""

    bias: Tensor  # (1, 1 + n_fft // 2, 1) magnitudes of the hum

    def __init__(self, waveglow: WaveGlow) -> None:
        super().__init__()
        config, weight = waveglow.config, next(waveglow.parameters())
        self.stft = STFT(config.win_length, config.hop_length).to(weight.device)
        mel = weight.new_zeros(1, config.n_mel_channels, NUM_FRAMES)
        z = weight.new_zeros(1, config.n_group, NUM_FRAMES * config.hop_length // config.n_group)
        self.register_buffer("bias", self.stft(waveglow.infer(mel, z=z).float()).abs()[:, :, :1])

    @torch.no_grad()
    def forward(self, audio: Tensor, strength: float = 0.01) -> Tensor:
        num_samples = audio.shape[-1]
        # Reflection padding needs more than half a window of audio; a phrase may have a single frame.
        missing = max(0, self.stft.n_fft // 2 + 1 - num_samples)
        spectrum = self.stft(nn.functional.pad(audio.float(), (0, missing)))
        magnitude = spectrum.abs()
        scale = (magnitude - strength * self.bias).clamp(min=0.0) / magnitude.clamp(min=1e-12)
        return self.stft.inverse(spectrum * scale, num_samples + missing)[..., :num_samples]
