"""Where a recording is quiet: the level of its frames, and the pauses.

Shapes: N samples, T frames of 10 ms, P pauses.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

FRAME_SECONDS = 0.01
SPEECH_DB = 35.0  # speech is at most this far below its loud frames, as in evaluation/corpus.py
NOISE_DB = 8.0  # in noise: a frame is quiet if it is at most this far above the floor
LEAST_DB = 12.0  # and always so far below the loud frames
MIN_PAUSE = 0.12  # seconds; shorter ones are the closures of plosives


def frame_levels(blocks: Iterable[np.ndarray], rate: int) -> np.ndarray:
    """Blocks (N) of a recording -> the level of each of its frames (T), in dB relative to full scale.

    It takes 400 bytes for each second. The last, incomplete frame is left out.
    """
    size, rest, found = rate * FRAME_SECONDS, np.zeros(0, np.float32), []
    done = consumed = 0
    for block in blocks:
        rest = np.concatenate([rest, block])
        count = int((consumed + len(rest)) / size) - done
        edges = np.round((done + np.arange(count + 1)) * size).astype(int) - consumed
        if count > 0:
            power = np.add.reduceat(np.square(rest[: edges[-1]], dtype=np.float64), edges[:-1]) / np.diff(edges)
            found.append((10 * np.log10(power + 1e-10)).astype(np.float32))
            rest, consumed, done = rest[edges[-1] :], consumed + int(edges[-1]), done + count
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def threshold(levels: np.ndarray) -> float:
    """The level in dB below which frames (T) count as quiet: well below the speech, or a little above the noise."""
    if not len(levels):
        return -100.0
    floor, loud = np.percentile(levels, [5, 95])
    return float(min(max(loud - SPEECH_DB, floor + NOISE_DB), loud - LEAST_DB))


def pauses(levels: np.ndarray) -> np.ndarray:
    """levels (T) -> start and end of each pause, in seconds (P, 2), also at a quiet start or end."""
    quiet = np.concatenate([[False], levels < threshold(levels), [False]])
    edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
    return edges[(edges[:, 1] - edges[:, 0]) * FRAME_SECONDS >= MIN_PAUSE - 1e-9] * FRAME_SECONDS
