"""Audio files, the STFT, log-mel spectrograms and Griffin-Lim, all defined by AudioConfig.

Shapes: B batch, N samples, T frames. Samples are float32 in [-1, 1].
"""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from common.config import AudioConfig
from common.errors import UserError
from common.files import replacing

MOMENTUM = 0.99  # alpha of the fast Griffin-Lim algorithm
TINY = 1e-12  # avoids division by zero
MAX_SAMPLES = 2**29  # 7 hours of LJSpeech, 2 GB; the header of a damaged file may promise more
LOUDEST = 1e9  # full scale is 1; larger samples overflow in a mel
MIN_RATE, MAX_RATE = 1000, 1_000_000  # Hz; a header with another sample rate is damaged
HZ_PER_MEL, HZ_BREAK, MEL_BREAK, MEL_STEP = 200 / 3, 1000.0, 15.0, math.log(6.4) / 27  # of Slaney's mel scale
FRAMES_AT_ONCE = 4096  # of a mel, 48 s of LJSpeech: more would take memory (12 kB per frame) and no less time


def read_audio(path: str | Path, start: int = 0, num_samples: int = -1) -> tuple[np.ndarray, int]:
    """Read a clip in any format that libsndfile reads: samples (N) or (N, channels), and its sample rate.

    `start` and `num_samples` select a part. Raises UserError if it has no samples, fewer than it should have, or one
    that is no plausible number.
    """
    try:
        if start == 0 and num_samples < 0:
            refuse_truncated_wav(Path(path))
        with soundfile.SoundFile(str(path)) as file:
            if num_samples < 0 and file.frames * file.channels > MAX_SAMPLES:
                raise UserError(f"{path}: {file.frames} samples, more than a clip may have; cut it or leave it out")
            file.seek(start)
            audio, sample_rate = file.read(num_samples, dtype="float32"), file.samplerate
    except (soundfile.LibsndfileError, OSError, MemoryError) as error:
        raise UserError(f"{path}: not a readable audio file ({error}); replace it or leave the clip out") from error
    if audio.size == 0:
        raise UserError(
            f"{path}: no samples after {start}; the clip is empty or truncated: replace it or leave the clip out"
        )
    if not -LOUDEST < audio.min() <= audio.max() < LOUDEST:
        raise UserError(
            f"{path}: holds samples that are NaN or infinite, or beyond {LOUDEST:g}; replace it or leave the clip out"
        )
    return audio, int(sample_rate)


def load_audio(
    path: str | Path, config: AudioConfig, convert: bool = False, start: int = 0, num_samples: int = -1
) -> np.ndarray:
    """Read a mono clip as samples (N); `start` and `num_samples` select a part.

    A clip with another sample rate or several channels is refused; with `convert` it is resampled and mixed down.
    """
    if not convert:
        audio, rate = read_audio(path, start, num_samples)
        if rate != config.sample_rate:
            raise UserError(
                f"{path}: the sample rate is {rate} Hz, but audio.sample_rate={config.sample_rate}; resample "
                "the clip, or set data.convert_audio=true"
            )
        if audio.ndim != 1:
            raise UserError(f"{path}: {audio.shape[1]} channels; make the clip mono, or set data.convert_audio=true")
        return audio
    audio, rate = read_audio(path)
    if not MIN_RATE <= rate <= MAX_RATE:
        raise UserError(f"{path}: a sample rate of {rate} Hz cannot be converted; replace it or leave the clip out")
    if audio.ndim > 1:
        audio = audio.mean(axis=1)
    audio = librosa.resample(audio, orig_sr=rate, target_sr=config.sample_rate)
    audio = audio[start : None if num_samples < 0 else start + num_samples]
    if audio.size == 0:
        raise UserError(f"{path}: no samples after {start}; the clip is too short: replace it or leave the clip out")
    return np.asarray(audio)


def needs_conversion(path: str | Path, config: AudioConfig) -> bool:
    """Whether `load_audio` refuses a clip for its sample rate or channels; False if the file cannot be read."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError):
        return False
    return bool(info.samplerate != config.sample_rate or info.channels != 1)


def refuse_truncated_wav(path: Path) -> None:
    """Raise a UserError if a wav has fewer samples than its header says; libsndfile would read it without an error."""
    with open(path, "rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return
        while len(header := file.read(8)) == 8:
            size = int.from_bytes(header[4:], "little")
            if header[:4] == b"data":
                present = path.stat().st_size - file.tell()
                if present < size < 0xFFFFFF00:  # streaming writers put a size near 2**32 for "unknown"
                    raise UserError(
                        f"{path}: truncated, it holds {present} of {size} bytes of samples; copy the clip again or "
                        "leave the clip out"
                    )
                return
            file.seek(size + size % 2, 1)


def save_audio(path: str | Path, audio: Tensor | np.ndarray, sample_rate: int) -> None:
    """Write samples (N) or (N, channels) as a 16-bit wav; samples outside [-1, 1] are clipped.

    The file is complete or absent, unless the power fails. Raises UserError if it cannot be written.
    """
    content = wav_bytes(audio, sample_rate)  # because soundfile fails an assertion when it cannot write to the disk
    with replacing(Path(path), durable=False) as temporary:
        temporary.write_bytes(content)


def wav_bytes(audio: Tensor | np.ndarray, sample_rate: int) -> bytes:
    """The content of a 16-bit wav file with samples (N) or (N, channels); those outside [-1, 1] are clipped."""
    samples = audio.detach().float().cpu().numpy() if isinstance(audio, Tensor) else audio
    content = io.BytesIO()
    soundfile.write(content, np.clip(samples, -1.0, 1.0), sample_rate, subtype="PCM_16", format="WAV")
    return content.getvalue()


def mel_filterbank(config: AudioConfig) -> np.ndarray:
    """Slaney's triangles of unit area (n_mels, 1 + n_fft // 2), bit for bit those of librosa.filters.mel, whose
    imports take longer than the loading of a small voice."""
    lowest, highest = _hz_to_mel(np.array([config.fmin, config.fmax]))
    edges = _mel_to_hz(np.linspace(lowest, highest, config.n_mels + 2))
    bins = np.fft.rfftfreq(config.n_fft, d=1 / config.sample_rate)
    slopes = np.subtract.outer(edges, bins)
    widths = np.diff(edges)[:, None]
    rising, falling = -slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    if num_empty := int((triangles.max(axis=1) == 0).sum()):
        warnings.warn(
            f"{num_empty} of audio.n_mels={config.n_mels} channels are empty: their bands lie between two bins of "
            f"audio.n_fft={config.n_fft}; use fewer channels or a larger n_fft",
            stacklevel=2,
        )
    filterbank: np.ndarray = (triangles * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    return filterbank


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear up to 1000 Hz, above it logarithmic with 27 steps to a factor of 6.4."""
    logarithmic = MEL_BREAK + np.log(np.maximum(hz, HZ_BREAK) / HZ_BREAK) / MEL_STEP
    return np.where(hz < HZ_BREAK, hz / HZ_PER_MEL, logarithmic)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < MEL_BREAK, mel * HZ_PER_MEL, HZ_BREAK * np.exp(MEL_STEP * (mel - MEL_BREAK)))


class STFT(nn.Module):
    """The short-time Fourier transform with a periodic Hann window, centered frames and reflection padding."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, win_length: int | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        margin = n_fft - (win_length or n_fft)  # a shorter window is centered in the frame
        window = nn.functional.pad(torch.hann_window(win_length or n_fft), (margin // 2, margin - margin // 2))
        self.register_buffer("window", window, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """(..., N) -> complex (..., 1 + n_fft // 2, 1 + N // hop_length)"""
        return torch.stft(audio, self.n_fft, self.hop_length, window=self.window, return_complex=True)

    def inverse(self, spectrum: Tensor, num_samples: int) -> Tensor:
        """complex (..., 1 + n_fft // 2, T) -> (..., num_samples)"""
        return torch.istft(spectrum, self.n_fft, self.hop_length, window=self.window, length=num_samples)


class LogMel(nn.Module):
    """audio (B, N) -> log-mel (B, n_mels, 1 + N // hop_length): log(max(filterbank @ |STFT|, log_floor))."""

    filterbank: Tensor

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.stft = STFT(config.n_fft, config.hop_length, config.win_length)
        self.register_buffer("filterbank", torch.from_numpy(mel_filterbank(config)), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        config = self.config
        # Reflection padding needs more than n_fft / 2 samples, so shorter clips first get silence at the end.
        num_frames = 1 + audio.shape[-1] // config.hop_length
        missing = config.n_fft // 2 + 1 - audio.shape[-1]
        if missing > 0:
            audio = nn.functional.pad(audio, (0, missing))
        padded = nn.functional.pad(audio, (config.n_fft // 2, config.n_fft // 2), mode="reflect")
        frames = padded.unfold(1, config.n_fft, config.hop_length)[:, :num_frames]  # (B, T, n_fft)
        mels = [self._mel(part) for part in frames.split(FRAMES_AT_ONCE, dim=1)]
        return mels[0] if len(mels) == 1 else torch.cat(mels, dim=2)

    def _mel(self, frames: Tensor) -> Tensor:
        """(B, T, n_fft) -> (B, n_mels, T)"""
        # Written out, because torch.stft and the absolute value of complex numbers take three times as long.
        spectrum = torch.fft.rfft(frames * self.stft.window)
        magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()
        mel = torch.matmul(magnitude, self.filterbank.T)  # (B, T, n_mels)
        return mel.clamp(min=self.config.log_floor).log().transpose(1, 2).contiguous()


class GriffinLim:
    """log-mel (n_mels, T) -> audio (T * hop_length): a vocoder that needs no training.

    The magnitudes come from the pseudo-inverse of the filterbank. The phases start from noise and follow the fast
    Griffin-Lim algorithm (Perraudin et al., 2013, algorithm 2).
    """

    def __init__(self, config: AudioConfig, num_iterations: int = 60) -> None:
        self.config = config
        self.num_iterations = num_iterations
        self.inverse_filterbank = torch.from_numpy(np.linalg.pinv(mel_filterbank(config)))  # (1 + n_fft // 2, n_mels)
        self.stft = STFT(config.n_fft, config.hop_length, config.win_length)

    @torch.no_grad()
    def __call__(self, mel: Tensor, seed: int = 0) -> Tensor:
        config, num_frames = self.config, mel.shape[1]
        # An untrained or diverged model may predict any value; e^10 is far above the magnitudes of audio in [-1, 1].
        log_mel = mel.detach().float().cpu().nan_to_num().clamp(max=10.0)
        # n frames span (n - 1) * hop_length samples. Silent frames extend this to the T * hop_length samples that are
        # returned, and to at least n_fft.
        silence = max(1, 1 + config.n_fft // config.hop_length - num_frames)
        magnitude = nn.functional.pad((self.inverse_filterbank @ log_mel.exp()).clamp(min=0.0), (0, silence))
        num_samples = (magnitude.shape[1] - 1) * config.hop_length
        generator = torch.Generator().manual_seed(seed)
        angle = 2 * math.pi * torch.rand(magnitude.shape, generator=generator)
        phases = torch.polar(torch.ones_like(angle), angle)
        before = torch.zeros_like(phases)
        for _ in range(self.num_iterations):
            spectrum = self.stft(self.stft.inverse(magnitude * phases, num_samples))
            ahead = spectrum + MOMENTUM * (spectrum - before)
            phases, before = ahead / ahead.abs().clamp(min=TINY), spectrum
        return self.stft.inverse(magnitude * phases, num_samples)[: num_frames * config.hop_length]
