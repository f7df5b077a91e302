"""Brings what a WaveGlow speaks closer to the mel that it was asked to speak."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.audio import LogMel
from common.config import AudioConfig

MAX_GAIN = 2.0  # of an amplitude's natural logarithm, either way, each time


class MelMatch(nn.Module):
    """mel (n_mels, T), audio (T * hop_length) -> audio of the same length, whose mel is nearly that one.

    A young or small WaveGlow has levels that waver from frame to frame and band to band, but fine structure and phases
    of speech. So each band of each frame is amplified by what its mel lacks, between the bands by interpolation.
    What this changes in one frame its neighbours overlap, so it takes a few times.
    """

    shares: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        filterbank = self.log_mel.filterbank  # (n_mels, 1 + n_fft // 2)
        # Gains of a frequency are those of its bands, by their shares; frequencies of no band are left alone.
        self.register_buffer("shares", filterbank / filterbank.sum(0).clamp(min=1e-8), persistent=False)

    @torch.no_grad()
    def forward(self, mel: Tensor, audio: Tensor, times: int) -> Tensor:
        config, window = self.config, self.log_mel.window
        num_frames = mel.shape[1]
        # Reflection at the ends needs more than half a window.
        missing = max(0, config.n_fft // 2 + 1 - len(audio))
        x = nn.functional.pad(audio.float(), (0, missing))
        for _ in range(times):
            lack = (mel - self.log_mel(x[None])[0, :, :num_frames]).clamp(-MAX_GAIN, MAX_GAIN)
            gain = (self.shares.T @ lack).exp()  # (1 + n_fft // 2, T)
            spectrum = torch.stft(x, config.n_fft, config.hop_length, window=window, return_complex=True)
            gain = nn.functional.pad(gain, (0, spectrum.shape[1] - num_frames), value=1.0)
            x = torch.istft(spectrum * gain, config.n_fft, config.hop_length, window=window, length=len(x))
        return x[: len(audio)]
