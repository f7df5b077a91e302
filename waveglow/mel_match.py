"""A filter that brings a WaveGlow's audio closer to its input mel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.audio import LogMel
from common.config import AudioConfig

MAX_GAIN = 2.0  # limit of a gain in one pass, as the natural logarithm of an amplitude


class MelMatch(nn.Module):
    """mel (n_mels, T), audio (T * hop_length) -> audio of the same length whose mel is close to `mel`.

    The audio of a small or briefly trained WaveGlow has the fine structure and phases of speech, but the wrong level in
    some frames and bands. Each band of each frame is therefore amplified by the difference between `mel` and the mel of
    the audio, interpolated between bands. Frames overlap, so a gain also changes adjacent frames: it takes several
    passes.
    """

    shares: Tensor  # (n_mels, 1 + n_fft // 2) weight of each band in the gain of each frequency

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config)
        filterbank = self.log_mel.filterbank  # (n_mels, 1 + n_fft // 2)
        # Frequencies outside all bands stay unchanged.
        self.register_buffer("shares", filterbank / filterbank.sum(0).clamp(min=1e-8), persistent=False)

    @torch.no_grad()
    def forward(self, mel: Tensor, audio: Tensor, passes: int) -> Tensor:
        stft, num_frames = self.log_mel.stft, mel.shape[1]
        # Reflection padding needs more than half a window of audio.
        missing = max(0, self.config.n_fft // 2 + 1 - len(audio))
        x = nn.functional.pad(audio.float(), (0, missing))
        for _ in range(passes):
            difference = (mel - self.log_mel(x[None])[0, :, :num_frames]).clamp(-MAX_GAIN, MAX_GAIN)
            gain = (self.shares.T @ difference).exp()  # (1 + n_fft // 2, T)
            spectrum = stft(x)
            gain = nn.functional.pad(gain, (0, spectrum.shape[1] - num_frames), value=1.0)
            x = stft.inverse(spectrum * gain, len(x))
        return x[: len(audio)]
