"""Look at a whole corpus before training: every bad row with its reason and cure, and what the clips are like.

    python scripts/check_dataset.py data.root=DIR [data=... audio.sample_rate=...]

Prints a report and writes it as report.txt, with a picture, report.png, into `output`. Exits with status 1 if a row
would stop training or harm it; what is only unusual is listed as well, and is not an error.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from common.audio import load_audio
from common.config import AudioConfig, DataConfig, from_dict
from common.data.filelist import Clip, scan_filelist
from common.data.mels import MEL_SUFFIXES
from common.entry import fail, hydra_entry
from common.errors import UserError, make_directory
from tacotron2.text import clean_text, symbol_table, text_to_ids, unknown_characters

FRAME_SECONDS = 0.01
SILENCE_DB = -50.0  # below full scale, over a frame
LONG_SILENCE_SECONDS = 0.5  # at an end
CLIPPING = 0.999  # of full scale
CLIPPED_SHARE = 1e-4  # of the samples
OUTLIER_DEVIATIONS = 5.0  # median absolute deviations, scaled to standard deviations


@dataclass
class CheckConfig:
    """The keys of conf/check_dataset.yaml."""

    audio: AudioConfig
    data: DataConfig
    output: str = "dataset_check"
    num_processes: int | None = None

    def __post_init__(self) -> None:
        if self.num_processes is not None and self.num_processes < 1:
            raise UserError(f"num_processes={self.num_processes} must be at least 1 (or null: one for each core)")


@dataclass
class Sound:
    """What one clip is like."""

    seconds: float
    peak: float  # of full scale
    clipped: float  # share of the samples
    silence_start: float  # seconds
    silence_end: float  # seconds


@dataclass
class Row:
    """A good clip: its sound, and its text after cleaning."""

    clip: Clip
    sound: Sound
    text: str
    num_symbols: int

    @property
    def symbols_per_second(self) -> float:
        return self.num_symbols / self.sound.seconds


def measure(job: tuple[Clip, AudioConfig, bool]) -> Sound | str:
    """The sound of a clip, or what is wrong with it."""
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


def check_text(clip: Clip, data: DataConfig, symbols: Sequence[str]) -> tuple[str, int]:
    """(cleaned text, number of symbols)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is dropped is counted, over the whole corpus
        return clean_text(clip.text, data.cleaners), len(text_to_ids(clip.text, data.cleaners, symbols))


def outliers(values: Sequence[float]) -> list[bool]:
    """Which values are far from the median, measured by the median of all distances from it."""
    if not values:
        return []
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return [abs(value - middle) > OUTLIER_DEVIATIONS * max(deviation, 1e-9) for value in values]


def unusual(rows: list[Row], config: CheckConfig) -> list[str]:
    """What is worth a look, row by row."""
    notes = []
    segment_seconds = config.data.segment_length / config.audio.sample_rate
    middle = statistics.median(row.symbols_per_second for row in rows)
    strange = outliers([row.symbols_per_second for row in rows])
    for row, is_strange in zip(rows, strange, strict=True):
        sound, where = row.sound, f"{row.clip.where}: {row.clip.path}"
        if is_strange:
            notes.append(
                f"{where}: {row.symbols_per_second:.1f} symbols a second, the median is {middle:.1f}; does the "
                "transcript say what is heard?"
            )
        for end, seconds in (("start", sound.silence_start), ("end", sound.silence_end)):
            if seconds > LONG_SILENCE_SECONDS:
                notes.append(f"{where}: {seconds:.2f} s of silence at the {end}; scripts/trim_silence.py cuts it off")
        if sound.clipped > CLIPPED_SHARE:
            notes.append(f"{where}: {sound.clipped:.2%} of the samples are clipped; use a better copy if there is one")
        if sound.seconds < segment_seconds:
            notes.append(
                f"{where}: {sound.seconds:.2f} s, shorter than WaveGlow's pieces of {segment_seconds:.2f} s; it is "
                "filled up with silence"
            )
    return notes


def repeated(lists: dict[str, list[Row]]) -> tuple[list[str], list[str]]:
    """(problems, notes): clips that are in several lists, and texts that are spoken more than once."""
    problems, notes = [], []
    first: dict[str, tuple[str, Row]] = {}
    by_text: defaultdict[str, list[Row]] = defaultdict(list)
    for name, rows in lists.items():
        for row in rows:
            other, earlier = first.setdefault(row.clip.path, (name, row))
            if other != name:
                problems.append(
                    f"{row.clip.where}: {row.clip.path} is in {other} as well ({earlier.clip.where}); what is trained "
                    "on cannot test: remove one of the rows"
                )
            by_text[row.text.lower()].append(row)
    for rows in by_text.values():
        if len(rows) > 1 and len({row.clip.path for row in rows}) > 1:
            places = ", ".join(row.clip.where for row in rows[1:4])
            notes.append(
                f"{rows[0].clip.where}: the same text as {places}: {rows[0].text[:50]!r}; is it read so often?"
            )
    return problems, notes


def summary(lists: dict[str, list[Row]], unknown: Counter[str]) -> list[str]:
    """A table, a line for each list."""
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
    lines.append(f"symbols the model does not have (they are not spoken): {listed}")
    return lines


def picture(lists: dict[str, list[Row]]) -> Figure:
    """Lengths, speaking rate, silence at the ends, peaks."""
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
    axes[1, 1].set(xlabel="peak, of full scale", ylabel="clips")
    return figure


def read_lists(data: DataConfig) -> tuple[dict[str, list[Clip]], list[str]]:
    """The good rows of each filelist, and what is wrong with the others."""
    lists, problems = {}, []
    for name, path in (("train", data.train_filelist), ("val", data.val_filelist), ("test", data.test_filelist)):
        if path is None or (name == "test" and not (Path(path).is_file() and Path(path).stat().st_size)):
            continue
        clips, bad = scan_filelist(path, data.root, data.follow_links)
        lists[name] = [clip for clip in clips if clip.file.suffix not in MEL_SUFFIXES]
        problems += bad
    return lists, problems


@hydra_entry("check_dataset")
def main(values: dict[str, Any]) -> None:
    config: CheckConfig = from_dict(CheckConfig, values)
    data = config.data
    symbols = symbol_table(data.characters)
    output = Path(config.output)
    clip_lists, problems = read_lists(data)
    make_directory(output, "output")
    jobs = [(clip, config.audio, data.convert_audio) for clips in clip_lists.values() for clip in clips]
    num_processes = max(1, min(config.num_processes or os.cpu_count() or 1, len(jobs)))
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        sounds = iter(list(tqdm(pool.imap(measure, jobs, chunksize=8), total=len(jobs), unit="clip")))
    lists: dict[str, list[Row]] = {name: [] for name in clip_lists}
    unknown: Counter[str] = Counter()
    for name, clips in clip_lists.items():
        for clip in clips:
            sound, (text, num_symbols) = next(sounds), check_text(clip, data, symbols)
            unknown.update(unknown_characters(clip.text, data.cleaners, symbols))
            if not num_symbols:
                problems.append(
                    f"{clip.where}: nothing is left of {clip.text[:40]!r} after {data.cleaners}; mend or remove the row"
                )
            if isinstance(sound, str):
                problems.append(sound)
            elif num_symbols:
                lists[name].append(Row(clip, sound, text, num_symbols))
    overlaps, same_texts = repeated(lists)
    problems += overlaps
    rows = [row for rows in lists.values() for row in rows]
    notes = unusual(rows, config) + same_texts if rows else []
    report = [
        *summary(lists, unknown),
        f"\n{len(problems)} bad row(s)" + (":" if problems else ""),
        *problems,
        f"\n{len(notes)} unusual one(s)" + (", no errors:" if notes else ""),
        *notes,
    ]
    print("\n".join(report))
    (output / "report.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    picture(lists).savefig(output / "report.png", dpi=100)
    print(f"\n{output / 'report.txt'}  {output / 'report.png'}", flush=True)
    if problems:
        fail(f"{len(problems)} row(s) of {data.root} need mending; they are listed above")


if __name__ == "__main__":
    main()
