"""Reads a corpus for check_dataset.py: its rows, their audio and their texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.audio import load_audio, needs_conversion
from common.config import AudioConfig, DataConfig
from common.data.filelist import Clip, filelists, scan_filelist
from common.data.mels import MEL_SUFFIXES
from common.data.metadata import column_problem, read_entries
from common.errors import UserError
from common.schema import Count, Options, Positive
from common.wording import counted
from tacotron2.text import clean_text, encode, word_spans

FRAME_SECONDS = 0.01
SILENCE_DB = -50.0  # level of a frame relative to full scale
SPEECH_DB = 35.0  # a frame is speech if it is at most this far below the loud ones, the 95th percentile of the clip
PAUSE_SECONDS = 0.15  # shorter silence inside a clip belongs to speech, such as the closure of a plosive
CLIPPING = 0.999  # of full scale


@dataclass
class CheckConfig(Options):
    """The keys of conf/check_dataset.yaml, which explains them."""

    audio: AudioConfig
    data: DataConfig
    output: str = "dataset_check"
    max_seconds: Positive = 20.0  # of a clip; attention does not learn to read much longer ones
    whisper: bool = False  # compare English transcripts with what Whisper hears, with the extra [eval]
    whisper_clips: Count = 50  # that it hears, evenly spaced: about a second each
    num_processes: Count | None = None


@dataclass
class Sound:
    """Properties of the audio of a clip."""

    seconds: float
    peak: float  # of full scale
    clipped: float  # fraction of the samples
    silence_start: float  # seconds
    silence_end: float  # seconds
    pauses: list[float]  # seconds of each, between the first and the last speech
    speech_seconds: float  # without pauses and silence


@dataclass
class Text:
    """Properties of a transcript."""

    cleaned: str
    num_symbols: int
    num_words: int
    dropped: list[str]  # parts without a symbol


@dataclass
class Row:
    """A clip that can be read: its sound and its text."""

    clip: Clip
    sound: Sound
    text: Text

    @property
    def symbols_per_second(self) -> float:
        return self.text.num_symbols / self.sound.seconds


def refuse_other_formats(clips: Sequence[Clip], audio: AudioConfig) -> None:
    """Raise a UserError if most clips need data.convert_audio, rather than a finding for each of them."""
    others = [clip for clip in clips if needs_conversion(clip.file, audio)]
    if len(others) > len(clips) / 2:
        raise UserError(
            f"{len(others):,} of {counted(len(clips), 'clip')} are not {audio.sample_rate} Hz mono, such as "
            f"{others[0].path}; add data.convert_audio=true to this and all commands that read the corpus"
        )


def measure(job: tuple[Clip, AudioConfig, bool]) -> Sound | str:
    """The sound of a clip, or the problem with it."""
    clip, audio, convert = job
    try:
        samples = load_audio(clip.file, audio, convert)
    except UserError as error:
        return f"{clip.where}: {error}"
    size = max(1, int(FRAME_SECONDS * audio.sample_rate))
    frames = np.pad(samples, (0, -len(samples) % size)).reshape(-1, size)
    power = np.einsum("fs,fs->f", frames, frames, dtype=np.float64) / size  # without a copy of a long clip in float64
    level = 10 * np.log10(power + 1e-20)
    loud = np.flatnonzero(level > SILENCE_DB)
    if not len(loud):
        return f"{clip.where}: {clip.file} is silent, never above {SILENCE_DB:.0f} dB; replace it or remove its row"
    return Sound(
        seconds=len(samples) / audio.sample_rate,
        peak=float(max(samples.max(), -samples.min())),
        clipped=float((np.abs(samples) >= CLIPPING).mean()),
        silence_start=float(loud[0]) * FRAME_SECONDS,
        silence_end=float(len(frames) - 1 - loud[-1]) * FRAME_SECONDS,
        **_pauses(level > np.percentile(level, 95) - SPEECH_DB),
    )


def _pauses(speech: np.ndarray) -> dict[str, Any]:
    """`pauses` and `speech_seconds` of a Sound, from the frames that are speech."""
    places = np.flatnonzero(speech)
    gaps = (np.diff(places) - 1) * FRAME_SECONDS
    pauses = gaps[gaps >= PAUSE_SECONDS].tolist()
    return {"pauses": pauses, "speech_seconds": float(places[-1] - places[0] + 1) * FRAME_SECONDS - sum(pauses)}


def read_text(clip: Clip, data: DataConfig, symbols: Sequence[str]) -> Text:
    """The properties of a clip's transcript."""
    ids, dropped = encode(clip.text, data.cleaners, symbols, language=data.language)
    cleaned = clean_text(clip.text, data.cleaners, language=data.language)
    return Text(cleaned, len(ids), len(word_spans(ids, symbols)), dropped)


def read_lists(data: DataConfig) -> tuple[dict[str, list[Clip]], list[str]]:
    """The audio clips of each filelist, without rows that name mels, and a message for each invalid row."""
    lists, problems = {}, []
    for name, path in filelists(data).items():
        clips, bad = scan_filelist(path, data.root, data.follow_links)
        lists[name] = [clip for clip in clips if clip.suffix not in MEL_SUFFIXES]
        problems += bad
    return lists, problems


def check_metadata(data: DataConfig, has_speakers: bool = False) -> tuple[dict[str, int], list[str]]:
    """clip id -> its place in metadata.csv, and problems of that file; both are empty if the corpus has none.

    If the filelists name speakers, a column of metadata.csv may do so too.
    """
    metadata = Path(data.root) / "metadata.csv"
    if not metadata.is_file():
        return {}, []
    try:
        entries = read_entries(metadata)
    except UserError as error:
        return {}, [str(error)]
    problem = "" if has_speakers else column_problem(metadata, entries)
    return {entry.clip: place for place, entry in enumerate(entries)}, [problem] if problem else []


def in_order(rows: list[Row], places: dict[str, int]) -> list[Row]:
    """`rows` in the order of metadata.csv; those that are not in it come last, by name, with numbers in their order."""

    def key(row: Row) -> tuple[int, list[str | int]]:
        name = str(Path(row.clip.path).with_suffix("")).removeprefix("wavs/")
        parts = re.split(r"(\d+)", name)  # text, number, text, number, ...
        return places.get(name, len(places)), [int(part) if k % 2 else part for k, part in enumerate(parts)]

    return sorted(rows, key=key)
