"""Checks a corpus before training: finds problems that would stop or harm training, and notes unusual rows."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.audio import load_audio
from common.config import AudioConfig, DataConfig
from common.data.filelist import Clip, scan_filelist
from common.data.mels import MEL_SUFFIXES
from common.errors import UserError
from common.schema import Count, Options
from tacotron2.text import Encoded, clean_text, encode

FRAME_SECONDS = 0.01
SILENCE_DB = -50.0  # level of a frame relative to full scale
LONG_SILENCE_SECONDS = 0.5  # at either end
CLIPPING = 0.999  # of full scale
CLIPPED_SHARE = 1e-4  # of the samples
OUTLIER_DEVIATIONS = 5.0  # median absolute deviations, scaled to standard deviations


@dataclass
class CheckConfig(Options):
    """The keys of conf/check_dataset.yaml, which explains them."""

    audio: AudioConfig
    data: DataConfig
    output: str = "dataset_check"
    num_processes: Count | None = None


@dataclass
class Sound:
    """Properties of the audio of a clip."""

    seconds: float
    peak: float  # of full scale
    clipped: float  # fraction of the samples
    silence_start: float  # seconds
    silence_end: float  # seconds


@dataclass
class Row:
    """A clip without problems: its sound, and its text after cleaning."""

    clip: Clip
    sound: Sound
    text: str
    num_symbols: int

    @property
    def symbols_per_second(self) -> float:
        return self.num_symbols / self.sound.seconds


def measure(job: tuple[Clip, AudioConfig, bool]) -> Sound | str:
    """The sound of a clip, or the problem with it."""
    clip, audio, convert = job
    try:
        samples = load_audio(clip.file, audio, convert)
    except UserError as error:
        return f"{clip.where}: {error}"
    size = max(1, int(FRAME_SECONDS * audio.sample_rate))
    frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    loud = np.flatnonzero(np.sqrt((frames.astype(np.float64) ** 2).mean(1)) > 10 ** (SILENCE_DB / 20))
    if not len(loud):
        return f"{clip.where}: {clip.file} is silent, never above {SILENCE_DB:.0f} dB; replace it or remove its row"
    return Sound(
        seconds=len(samples) / audio.sample_rate,
        peak=float(np.abs(samples).max()),
        clipped=float((np.abs(samples) >= CLIPPING).mean()),
        silence_start=float(loud[0]) * FRAME_SECONDS,
        silence_end=float(len(frames) - 1 - loud[-1]) * FRAME_SECONDS,
    )


def check_text(clip: Clip, data: DataConfig, symbols: Sequence[str]) -> tuple[str, Encoded]:
    """Return the cleaned text, and the result of `encode`: its ids, and the symbols that the model lacks."""
    return clean_text(clip.text, data.cleaners), encode(clip.text, data.cleaners, symbols)


def outliers(values: Sequence[float]) -> list[bool]:
    """For each value, True if its distance from the median is large compared with the median of all distances."""
    if not values:
        return []
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [abs(value - middle) > OUTLIER_DEVIATIONS * max(deviation, 1e-9) for value in values]


def unusual(rows: list[Row], config: CheckConfig) -> list[str]:
    """Notes on rows that are worth a look."""
    notes = []
    segment_seconds = config.data.segment_length / config.audio.sample_rate
    middle = statistics.median(row.symbols_per_second for row in rows)
    strange = outliers([row.symbols_per_second for row in rows])
    for row, is_strange in zip(rows, strange, strict=True):
        sound, where = row.sound, f"{row.clip.where}: {row.clip.path}"
        if is_strange:
            notes.append(
                f"{where}: {row.symbols_per_second:.1f} symbols per second, the median is {middle:.1f}; does the "
                "transcript match the audio?"
            )
        for end, seconds in (("start", sound.silence_start), ("end", sound.silence_end)):
            if seconds > LONG_SILENCE_SECONDS:
                notes.append(f"{where}: {seconds:.2f} s of silence at the {end}; scripts/trim_silence.py removes it")
        if sound.clipped > CLIPPED_SHARE:
            notes.append(f"{where}: {sound.clipped:.2%} of the samples are clipped; use a better copy if you have one")
        if sound.seconds < segment_seconds:
            notes.append(
                f"{where}: {sound.seconds:.2f} s, shorter than the {segment_seconds:.2f} s of WaveGlow's segments "
                "(data.segment_length); it will be padded with silence"
            )
    return notes


def repeated(lists: dict[str, list[Row]]) -> tuple[list[str], list[str]]:
    """(problems, notes): clips that are in several lists, and texts that occur more than once."""
    problems, notes = [], []
    first: dict[str, tuple[str, Row]] = {}
    by_text: defaultdict[str, list[Row]] = defaultdict(list)
    for name, rows in lists.items():
        for row in rows:
            other, earlier = first.setdefault(row.clip.path, (name, row))
            if other != name:
                problems.append(
                    f"{row.clip.where}: {row.clip.path} is also in {other} ({earlier.clip.where}); the lists "
                    "must not share clips: remove one of the rows"
                )
            by_text[row.text.lower()].append(row)
    for rows in by_text.values():
        if len(rows) > 1 and len({row.clip.path for row in rows}) > 1:
            places = ", ".join(row.clip.where for row in rows[1:4])
            notes.append(f"{rows[0].clip.where}: the same text as {places}: {rows[0].text[:50]!r}; is that intended?")
    return problems, notes


def summary(lists: dict[str, list[Row]], unknown: Counter[str]) -> list[str]:
    """A table with a line for each list."""
    head = f"{'list':<6} {'clips':>7} {'hours':>7} {'shortest':>9} {'median':>7} {'longest':>8} {'symbols/s':>10}"
    lines = [head]
    for name, rows in lists.items():
        if not rows:
            continue
        seconds = [row.sound.seconds for row in rows]
        rate = statistics.median(row.symbols_per_second for row in rows)
        lengths = f"{min(seconds):>7.2f} s {statistics.median(seconds):>5.2f} s {max(seconds):>6.2f} s"
        lines.append(f"{name:<6} {len(rows):>7,} {sum(seconds) / 3600:>7.2f} {lengths} {rate:>10.1f}")
    every = [row.sound for rows in lists.values() for row in rows]
    if every:
        ends = (
            statistics.median(sound.silence_start for sound in every),
            statistics.median(sound.silence_end for sound in every),
        )
        clipped = sum(sound.clipped > CLIPPED_SHARE for sound in every)
        lines.append(f"silence at the ends, median: {ends[0]:.2f} s before, {ends[1]:.2f} s after")
        lines.append(f"clips with clipping: {clipped:,}; loudest peak {max(sound.peak for sound in every):.3f}")
    listed = ", ".join(f"{symbol!r} x {count}" for symbol, count in unknown.most_common(20)) or "none"
    lines.append(f"symbols that the model lacks, which are left out: {listed}")
    return lines


def picture(lists: dict[str, list[Row]]) -> Figure:
    """Histograms of lengths, silence at the ends, and peaks, and a scatter plot of symbols against length."""
    rows = [row for rows in lists.values() for row in rows]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    seconds = [row.sound.seconds for row in rows]
    axes[0, 0].hist(seconds, bins=40)
    axes[0, 0].set(xlabel="clip length in seconds", ylabel="clips")
    axes[0, 1].scatter(seconds, [row.num_symbols for row in rows], s=4)
    axes[0, 1].set(xlabel="clip length in seconds", ylabel="symbols")
    silences = [[row.sound.silence_start for row in rows], [row.sound.silence_end for row in rows]]
    axes[1, 0].hist(silences, bins=40, label=["at the start", "at the end"])
    axes[1, 0].set(xlabel="silence in seconds", ylabel="clips")
    axes[1, 0].legend()
    axes[1, 1].hist([row.sound.peak for row in rows], bins=40)
    axes[1, 1].set(xlabel="peak, as a fraction of full scale", ylabel="clips")
    return figure


def read_lists(data: DataConfig) -> tuple[dict[str, list[Clip]], list[str]]:
    """The audio clips of each filelist, without rows that name mels, and a message for each invalid row."""
    lists, problems = {}, []
    for name, path in (("train", data.train_filelist), ("val", data.val_filelist), ("test", data.test_filelist)):
        if path is None or (name == "test" and not (Path(path).is_file() and Path(path).stat().st_size)):
            continue
        clips, bad = scan_filelist(path, data.root, data.follow_links)
        lists[name] = [clip for clip in clips if clip.file.suffix not in MEL_SUFFIXES]
        problems += bad
    return lists, problems
