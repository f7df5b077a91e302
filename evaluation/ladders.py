"""Ladders: recordings made worse step by step, which show what a judge hears and what it does not.

Shapes: N samples, float32 in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import librosa
import numpy as np
import scipy.ndimage
import scipy.signal
import torch

from common.audio import GriffinLim, LogMel
from common.config import AudioConfig

LadderName = Literal["noise", "lowpass", "griffin_lim", "smooth", "cut", "shuffle", "pitch"]
LADDERS: tuple[LadderName, ...] = get_args(LadderName)
Damage = Callable[[np.ndarray, AudioConfig, np.random.Generator], np.ndarray]

PIECE_SECONDS = 0.3  # of `cut`: about a word
SNR = (30, 20, 10, 0)
CUTOFF_KHZ = (4, 2, 1)
ITERATIONS = (60, 8, 2, 0)
FRAMES = (3, 7, 15)
PERIODS = (8, 4, 2)
SECONDS = (1.0, 0.5, 0.125)
SEMITONES = (1, 2, 4, 8)


def steps(name: LadderName) -> dict[str, Damage]:
    """The steps of a ladder under their names, from the lightest damage to the heaviest."""
    ladders: dict[LadderName, dict[str, Damage]] = {
        "noise": {f"white noise at {snr} dB": partial(_noise, snr) for snr in SNR},
        "lowpass": {f"lowpass at {khz} kHz": partial(_lowpass, khz) for khz in CUTOFF_KHZ},
        "griffin_lim": {f"griffin_lim of {n} iterations": partial(_griffin_lim, n, 1) for n in ITERATIONS},
        "smooth": {f"griffin_lim of mel smoothed over {n} frames": partial(_griffin_lim, 60, n) for n in FRAMES},
        "cut": {f"without 1 of {n} words": partial(_cut, n) for n in PERIODS},
        "shuffle": {f"shuffled pieces of {s} s": partial(_shuffle, s) for s in SECONDS},
        "pitch": {f"raised by {n} semitones": partial(_pitch, n) for n in SEMITONES},
    }
    return ladders[name]


def aligned(name: LadderName) -> bool:
    """Whether the steps keep the recording's timing."""
    return name in ("noise", "lowpass", "griffin_lim", "smooth")


def _noise(snr: float, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator) -> np.ndarray:
    """White noise with a power of `snr` dB below the clip's."""
    level = np.sqrt(np.mean(audio**2)) * 10 ** (-snr / 20)
    return np.asarray(audio + level * rng.standard_normal(len(audio)), dtype=np.float32)


def _lowpass(cutoff_khz: float, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator) -> np.ndarray:
    sections = scipy.signal.butter(8, 1000 * cutoff_khz, fs=config.sample_rate, output="sos")
    return np.asarray(scipy.signal.sosfiltfilt(sections, audio), dtype=np.float32)


def _griffin_lim(
    iterations: int, frames: int, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator
) -> np.ndarray:
    """A copy through the mel, averaged over `frames` frames."""
    mel = LogMel(config)(torch.from_numpy(audio).unsqueeze(0))[0].numpy()
    mel = scipy.ndimage.uniform_filter1d(mel, frames, axis=1)
    return GriffinLim(config, iterations)(torch.from_numpy(mel), int(rng.integers(2**31)))[: len(audio)].numpy()


def _cut(period: int, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator) -> np.ndarray:
    """The clip without one of `period` pieces."""
    pieces = _pieces(audio, PIECE_SECONDS, config)
    return np.concatenate([piece for i, piece in enumerate(pieces) if i % period != 1])


def _shuffle(seconds: float, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator) -> np.ndarray:
    pieces = _pieces(audio, seconds, config)
    return np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])


def _pieces(audio: np.ndarray, seconds: float, config: AudioConfig) -> list[np.ndarray]:
    length = round(seconds * config.sample_rate)
    return [audio[i : i + length] for i in range(0, len(audio), length)]


def _pitch(semitones: float, audio: np.ndarray, config: AudioConfig, rng: np.random.Generator) -> np.ndarray:
    """The clip played faster, so that its formants rise with its pitch: another voice."""
    faster = 2 ** (semitones / 12)
    return np.asarray(librosa.resample(audio, orig_sr=config.sample_rate * faster, target_sr=config.sample_rate))
