"""Distances between two clips of the same text, or between a clip and its copy.

Shapes: N samples, float64 or float32 in [-1, 1], T frames of 5 ms.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import librosa
import numpy as np
import scipy.fft

from evaluation.judges import RATE, optional

FRAME_MS = 5.0
ENVELOPE_POINTS = 256  # on the mel axis
MEL_CEPSTRA = 24  # without the 0th, which is the loudness
SILENCE_DB = 40.0  # frames this far below the loudest one are silent; two silent frames are not compared
SHORTEST_SECONDS = 0.5  # STOI needs 30 frames of speech
NO_STOI = 1e-5  # what pystoi returns for too little speech


class Analysis(NamedTuple):
    """WORLD's analysis of a clip (Morise et al., 2016)."""

    pitch: np.ndarray  # (T) Hz, 0 where unvoiced
    cepstra: np.ndarray  # (T, MEL_CEPSTRA)
    loud: np.ndarray  # (T) bool


def analyze(audio: np.ndarray, sample_rate: int, fmax: float) -> Analysis:
    """Analyze audio (N) with WORLD. The envelope is compared up to fmax in Hz, where the mel ends."""
    pyworld = optional("pyworld")
    samples = np.ascontiguousarray(audio, dtype=np.float64)
    coarse, times = pyworld.dio(samples, sample_rate, frame_period=FRAME_MS)
    pitch = pyworld.stonemask(samples, coarse, times, sample_rate)
    log_envelope = 0.5 * np.log(pyworld.cheaptrick(samples, pitch, times, sample_rate) + 1e-16)  # (T, bins), amplitude
    # log |H| = sum of c_k cos(k w) on the mel scale
    bins = librosa.mel_frequencies(ENVELOPE_POINTS, fmin=0.0, fmax=fmax) / (sample_rate / 2)
    grid = np.linspace(0, 1, log_envelope.shape[1])
    warped = np.stack([np.interp(bins, grid, frame) for frame in log_envelope])  # (T, ENVELOPE_POINTS)
    cepstra = scipy.fft.dct(warped, type=2, axis=1)[:, 1 : MEL_CEPSTRA + 1] / ENVELOPE_POINTS
    level = 20 / math.log(10) * warped.mean(axis=1)
    return Analysis(pitch, cepstra, level > level.max() - SILENCE_DB)


class Distance(NamedTuple):
    mcd: float  # dB
    pitch_error: float  # root mean square in cents over frames that are voiced in both; NaN if there are none
    voicing_error: float  # fraction of the frames that are voiced in only one of the two


def distance(a: Analysis, b: Analysis) -> Distance:
    """Mel-cepstral distortion (Kubichek, 1993) and pitch differences, aligned by dynamic time warping."""
    _, path = librosa.sequence.dtw(a.cepstra.T, b.cepstra.T, metric="euclidean")
    i, j = path[::-1].T
    kept = a.loud[i] | b.loud[j]
    i, j = i[kept], j[kept]
    squares = ((a.cepstra[i] - b.cepstra[j]) ** 2).sum(axis=1)
    mcd = 10 / math.log(10) * float(np.sqrt(2 * squares).mean())
    pitch_a, pitch_b = a.pitch[i], b.pitch[j]
    both = (pitch_a > 0) & (pitch_b > 0)
    cents = 1200 * np.log2(pitch_a[both] / pitch_b[both])
    pitch_error = float(np.sqrt((cents**2).mean())) if both.any() else math.nan
    return Distance(mcd, pitch_error, float(((pitch_a > 0) != (pitch_b > 0)).mean()))


def copy_quality(clip: np.ndarray, copy: np.ndarray, sample_rate: int) -> dict[str, float]:
    """clip and copy (N), aligned in time -> "stoi" and "pesq", each only if there is enough speech for it.

    STOI (Taal et al., 2011) is 0 to 1. pystoi itself resamples to 10 kHz with the filter of the authors' code. Wideband
    PESQ (ITU-T P.862.2), 1 to 4.6, is defined at 16 kHz; its authors leave it to the user how the audio gets there.
    """
    stoi, pesq = optional("pystoi"), optional("pesq")
    length = min(len(clip), len(copy))
    clip, copy = clip[:length], copy[:length]
    found: dict[str, Any] = {}
    if length < SHORTEST_SECONDS * sample_rate or not copy.any():
        return found
    if (value := float(stoi.stoi(clip, copy, sample_rate))) != NO_STOI:
        found["stoi"] = value
    clip, copy = (librosa.resample(x, orig_sr=sample_rate, target_sr=RATE) for x in (clip, copy))
    with contextlib.suppress(pesq.NoUtterancesError):  # it finds no speech
        found["pesq"] = float(pesq.pesq(RATE, clip, copy, "wb"))
    return found
