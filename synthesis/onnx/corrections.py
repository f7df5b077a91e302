"""The denoiser and the mel match of WaveGlow's audio with NumPy, equal to waveglow/denoiser.py and
waveglow/mel_match.py up to rounding. The constants that PyTorch or librosa compute are in filters.npz.

Shapes: N samples, T frames, F = 1 + n_fft // 2 frequencies. All in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from synthesis.onnx.files import FILTERS_FILE

MAX_GAIN = 2.0  # as in waveglow/mel_match.py


class STFT:
    """The short-time Fourier transform of common/audio.py: periodic Hann window, centered frames, reflection."""

    def __init__(self, n_fft: int, hop_length: int, win_length: int) -> None:
        self.n_fft, self.hop_length = n_fft, hop_length
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
        margin = n_fft - win_length  # a shorter window is centered in the frame
        self.window = np.pad(window, (margin // 2, margin - margin // 2)).astype(np.float32)

    def __call__(self, audio: np.ndarray) -> np.ndarray:
        """(N) -> complex (1 + N // hop_length, F)"""
        padded = np.pad(audio, self.n_fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop_length]
        return np.fft.rfft(frames * self.window)

    def inverse(self, spectrum: np.ndarray, num_samples: int) -> np.ndarray:
        """complex (T, F) -> (num_samples)"""
        frames = np.fft.irfft(spectrum, self.n_fft) * self.window
        audio: np.ndarray = np.zeros(self.n_fft + self.hop_length * (len(frames) - 1), np.float32)
        weight = np.zeros_like(audio)
        for t, frame in enumerate(frames):
            place = slice(t * self.hop_length, t * self.hop_length + self.n_fft)
            audio[place] += frame
            weight[place] += self.window**2
        inside = slice(self.n_fft // 2, self.n_fft // 2 + num_samples)
        samples = audio[inside] / np.maximum(weight[inside], 1e-11)
        return np.pad(samples, (0, num_samples - len(samples)))


def _long_enough(audio: np.ndarray, stft: STFT) -> np.ndarray:
    """`audio` with silence at its end, if it is too short for reflection, which needs more than half a window."""
    return np.pad(audio, (0, max(0, stft.n_fft // 2 + 1 - len(audio))))


class Corrections:
    """The filters that follow WaveGlow, for the voice in `directory`."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        with np.load(directory / FILTERS_FILE) as arrays:
            self.hum = arrays["hum"]  # (1 + win_length // 2) magnitudes of WaveGlow's hum
            self.filterbank = arrays["filterbank"]  # (n_mels, F)
        waveglow, self.audio = config["waveglow"], config["audio"]
        self.hum_stft = STFT(waveglow["win_length"], waveglow["hop_length"], waveglow["win_length"])
        self.stft = STFT(self.audio["n_fft"], self.audio["hop_length"], self.audio["win_length"])
        self.shares = self.filterbank / np.maximum(self.filterbank.sum(0), 1e-8)

    def denoise(self, audio: np.ndarray, strength: float) -> np.ndarray:
        """audio (N) -> audio (N), with `strength` times the hum's spectrum subtracted from the magnitudes."""
        x = _long_enough(audio, self.hum_stft)
        spectrum = self.hum_stft(x)
        magnitude = np.abs(spectrum)
        scale = np.maximum(magnitude - np.float32(strength) * self.hum, 0) / np.maximum(magnitude, 1e-12)
        return self.hum_stft.inverse(spectrum * scale, len(x))[: len(audio)]

    def match_mel(self, mel: np.ndarray, audio: np.ndarray, passes: int) -> np.ndarray:
        """mel (n_mels, T), audio (T * hop_length) -> audio of the same length whose mel is closer to `mel`."""
        x = _long_enough(audio, self.stft)
        for _ in range(passes):
            spectrum = self.stft(x)
            magnitude = np.abs(spectrum[: mel.shape[1]])
            now = np.log(np.maximum(magnitude @ self.filterbank.T, self.audio["log_floor"]))  # (T, n_mels)
            difference = np.clip(mel.T - now, -MAX_GAIN, MAX_GAIN)
            spectrum[: mel.shape[1]] *= np.exp(difference @ self.shares)
            x = self.stft.inverse(spectrum, len(x))
        return x[: len(audio)]
