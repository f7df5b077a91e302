"""The measures, their statistics over utterances, and the table that compares systems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.stats

RECORDINGS = "recordings"


@dataclass
class Utterance:
    """One utterance and its measurements."""

    name: str
    audio: np.ndarray  # (N) at the sample rate of the audio config
    text: str | None = None
    clip: int | None = None  # index of the recording of the same text, if there is one
    found: dict[str, Any] = field(default_factory=dict)  # measures, and the values that they are computed from


@dataclass
class System:
    """One source of speech: a column of the table."""

    name: str
    utterances: list[Utterance]
    copies: bool = False  # its utterances are copies of the recordings, aligned with them in time
    made: bool = False  # synthesized here: its wavs are written


def folder_name(system: str) -> str:
    """The folder for the wavs of a system."""
    return system.replace(" + ", "_").replace(" ", "_")


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(values.mean(axis=axis))


def _ratio(part: np.ndarray, total: np.ndarray, axis: int) -> np.ndarray:
    return np.asarray(part.sum(axis=axis) / total.sum(axis=axis))


def _percentage(part: np.ndarray, total: np.ndarray, axis: int) -> np.ndarray:
    return 100 * _ratio(part, total, axis)


@dataclass(frozen=True)
class Measure:
    """A row of the table."""

    title: str
    keys: tuple[str, ...]  # keys of Utterance.found, whose values are the arguments of `statistic`
    statistic: Callable[..., np.ndarray] = _mean
    digits: int = 2


MEASURES = {
    "wer": Measure("word error rate, % (Whisper tiny.en)", ("words_wrong", "words"), _percentage, 1),
    "cer": Measure("character error rate, %", ("characters_wrong", "characters"), _percentage, 1),
    "mos": Measure("naturalness, 1 to 5 (DistillMOS)", ("mos",)),
    "ovrl": Measure("overall quality, 1 to 5 (DNSMOS P.835 OVRL)", ("ovrl",)),
    "sig": Measure("quality of the speech, 1 to 5 (DNSMOS P.835 SIG)", ("sig",)),
    "bak": Measure("quietness of the background, 1 to 5 (DNSMOS P.835 BAK)", ("bak",)),
    "speaker": Measure("speaker similarity to the recordings, cosine (Resemblyzer)", ("speaker",)),
    "mcd": Measure("mel-cepstral distortion, dB (DTW)", ("mcd",)),
    "pitch_error": Measure("pitch error, cents RMS (DTW)", ("pitch_error",), digits=0),
    "voicing_error": Measure("voicing decision error, % of frames (DTW)", ("voicing_error",), digits=1),
    "stoi": Measure("STOI, 0 to 1", ("stoi",)),
    "pesq": Measure("PESQ wideband, 1 to 4.6", ("pesq",)),
    "coverage": Measure("words that the attention read, %", ("coverage",), digits=1),
    "skips": Measure("skipped word groups per utterance", ("skips",)),
    "repeats": Measure("repeated word groups per utterance", ("repeats",)),
    "flawless": Measure("read without skip, repeat or missing end, %", ("flawless",), digits=1),
    "rate": Measure("speaking rate, characters per second", ("text_characters", "speech_seconds"), _ratio, 1),
    "rtf": Measure("RTF", ("latency", "audio_seconds"), _ratio, 3),
}


def interval(values: Sequence[Sequence[float]], statistic: Callable[..., np.ndarray]) -> dict[str, Any]:
    """{"mean", "low", "high", "n"} of `statistic` over utterances, with the 95 % interval of 2,000 bootstrap samples.

    `values` holds a sequence for each argument of `statistic`. A single utterance has no interval.
    """
    columns = tuple(np.asarray(column, dtype=float) for column in values)
    mean = float(statistic(*columns, axis=0))
    result: dict[str, Any] = {"mean": mean, "low": None, "high": None, "n": len(columns[0])}
    if len(columns[0]) > 1:
        limits = scipy.stats.bootstrap(
            columns, statistic, n_resamples=2000, paired=True, vectorized=True, method="percentile", rng=0
        ).confidence_interval
        result.update(low=float(limits.low), high=float(limits.high))
    return result


def summarize(system: System) -> dict[str, Any]:
    """The number of utterances, and the interval of each measure that was found."""
    result: dict[str, Any] = {"utterances": len(system.utterances)}
    for key, measure in MEASURES.items():
        rows = [
            [u.found[k] for k in measure.keys] for u in system.utterances if all(k in u.found for k in measure.keys)
        ]
        if rows:
            result[key] = interval(list(zip(*rows, strict=True)), measure.statistic)
    return result


def table(summary: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of cells: a header, then a row for each measure that a system has, with a column for each system."""
    rows = [["", *summary]]
    for key, measure in MEASURES.items():
        cells = [_cell(found[key], measure.digits) if key in found else "" for found in summary.values()]
        if any(cells):
            rows.append([measure.title, *cells])
    return [*rows, ["utterances", *(str(found["utterances"]) for found in summary.values())]]


def _cell(found: dict[str, Any], digits: int) -> str:
    mean, low, high = (found[part] for part in ("mean", "low", "high"))
    limits = "" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{mean:.{digits}f}{limits}"


def markdown(summary: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown."""
    head, *rows = (f"| {' | '.join(cells)} |" for cells in table(summary))
    return "\n".join([head, "|---" * (1 + len(summary)) + "|", *rows])
