"""Removes the constant hum that a WaveGlow adds, by spectral subtraction."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from waveglow.model import WaveGlow

NUM_FRAMES = 88  # length of the silent mel whose audio is the model's own bias


class Denoiser(nn.Module):
    """audio (B, N) -> audio (B, N) with `strength` times the model's bias taken off the STFT magnitude."""

    window: Tensor
    bias: Tensor

    def __init__(self, waveglow: WaveGlow) -> None:
        super().__init__()
        self.n_fft, self.hop_length = waveglow.config.win_length, waveglow.config.hop_length
        weight = next(waveglow.parameters())
        self.register_buffer("window", torch.hann_window(self.n_fft, device=weight.device))
        silence = weight.new_zeros(1, waveglow.config.n_mel_channels, NUM_FRAMES)
        audio = waveglow.infer(silence, sigma=0.0).float()
        self.register_buffer("bias", self._stft(audio).abs()[:, :, :1])  # (1, 1 + n_fft // 2, 1)

    def _stft(self, audio: Tensor) -> Tensor:
        return torch.stft(audio, self.n_fft, self.hop_length, window=self.window, return_complex=True)

    @torch.no_grad()
    def forward(self, audio: Tensor, strength: float = 0.01) -> Tensor:
        spectrum = self._stft(audio.float())
        magnitude = spectrum.abs()
        scale = (magnitude - strength * self.bias).clamp(min=0.0) / magnitude.clamp(min=1e-12)
        return torch.istft(spectrum * scale, self.n_fft, self.hop_length, window=self.window, length=audio.shape[-1])
