"""Writes the clips of a recording: mono, 22,050 Hz, 16 bit, at a common loudness, with what was measured in the source.

Shapes: N samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import torch

from common.audio import save_audio
from common.config import AudioConfig
from common.errors import UserError
from common.files import make_directory, write_text
from recordings.alignment import align
from recordings.cutting import MAX_SECONDS, Cut, audible, cut, whole
from recordings.hearing import Heard
from recordings.levels import frame_levels, pauses
from recordings.sources import Recording, Span, blocks, clip_stem, refuse_changed, stretches
from recordings.transcripts import Transcript
from synthesis.loudness import LoudnessMeter

VERSION = 1  # of the results: another one makes all of them stale
RATE = AudioConfig().sample_rate  # Hz
FULL_SCALE = 0.999  # a sample at this level or above is clipped, as in evaluation/corpus.py


@dataclass(frozen=True)
class Clip:
    """A clip of a recording: its `name`, where it is from, its text, and the share of clipped samples in the source.
    `audio_key` is the same for the same audio, whatever its text.

    `problem` says why there is no audio for it; "" if there is.
    """

    name: str
    recording: str
    start: float  # seconds in the recording
    end: float
    text: str
    clipped: float = 0.0
    problem: str = ""
    audio_key: str = ""

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class Clips:
    """The clips of a recording. `share_equal`: of the words of a given transcript, how many were heard as they are
    written; None if there is no transcript, or if the recording was not aligned with it because it is short."""

    clips: list[Clip]
    share_equal: float | None
    fingerprint: str


def refuse_same_clips(recordings: Sequence[Recording]) -> None:
    """Raise a UserError if a recording that stays whole has the name of a clip of a longer one: take_0001 and take."""
    stems = {clip_stem(recording.name).lower(): recording for recording in recordings}
    for stem, recording in stems.items():
        found = re.fullmatch(r"(.+)_(\d{4,})", stem)
        other = stems.get(found[1]) if found and recording.seconds <= MAX_SECONDS else None
        if found and other and MAX_SECONDS < other.seconds >= int(found[2]):  # a clip has a second or more
            raise UserError(
                f"{recording.path} would have the name of a clip of {other.path}; rename one of them, or move it to "
                "another folder"
            )


def is_whole(recording: Recording, transcript: Transcript) -> bool:
    """Whether a recording is one clip as it is, which need not be heard before it is cut."""
    return transcript.text is not None and recording.seconds <= MAX_SECONDS


def cut_all(
    sources: Sequence[tuple[Recording, Transcript, Heard | None, dict[str, Any]]], work: Path, loudness: float
) -> Iterator[Clips]:
    """Yield the clips of each recording, and write their audio to `work` as NAME.wav.

    Each source is a recording with its transcript, what was heard (None if `is_whole`), and the fingerprint of that.
    What is there from an earlier run is used again if nothing of this has changed.
    """
    make_directory(work, "output")
    for recording, transcript, heard, before in sources:
        yield cut_one(recording, transcript, heard, work, loudness, before)


def cut_one(
    recording: Recording,
    transcript: Transcript,
    heard: Heard | None,
    work: Path,
    loudness: float,
    before: dict[str, Any],
) -> Clips:
    """The clips of one recording; see `cut_all`."""
    depends = {**before, "text": transcript.text, "loudness": loudness, "version": VERSION}
    fingerprint = _digest(depends)
    file = work / f"{clip_stem(recording.name)}.json"
    kept = _kept(file, fingerprint, work)
    if kept is not None:
        return kept
    cuts, share = cuts_of(recording, transcript, heard)
    clips = list(_written(recording, cuts, work, loudness))
    refuse_changed(recording)
    result = Clips(clips, share, fingerprint)
    write_text(file, json.dumps(dataclasses.asdict(result), ensure_ascii=False))
    return result


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _kept(file: Path, fingerprint: str, work: Path) -> Clips | None:
    """The result of an earlier run, if it is there, still valid, and its audio is there too."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        result = Clips([Clip(**clip) for clip in content["clips"]], content["share_equal"], content["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = all(clip.problem or _has_audio(clip, work / f"{clip.name}.wav") for clip in result.clips)
    return result if result.fingerprint == fingerprint and complete else None


def _has_audio(clip: Clip, file: Path) -> bool:
    """Whether the file is there and as long as the clip; after a power failure it may be empty."""
    try:
        return file.stat().st_size >= 2 * RATE * (clip.seconds - 0.1)  # 16 bit
    except OSError:
        return False


def cuts_of(recording: Recording, transcript: Transcript, heard: Heard | None) -> tuple[list[Cut], float | None]:
    """Where to cut a recording, and the share of the words of its transcript that were heard as they are written."""
    levels = frame_levels(blocks(recording), recording.sample_rate)
    quiet = pauses(levels)
    if heard is None:
        assert transcript.text is not None
        return [whole(transcript.text, quiet, recording.seconds)], None
    words = audible(heard.words, quiet)
    if transcript.text is None:
        return cut(words, quiet, recording.seconds), None
    given = transcript.text.split()
    aligned = align(given, words)
    if not aligned.words:
        return [Cut(Span(0.0, recording.seconds), transcript.text, "no speech is heard in this recording")], 0.0
    return cut(aligned.words, quiet, recording.seconds), aligned.num_equal / len(given)


def _written(recording: Recording, cuts: Sequence[Cut], work: Path, loudness: float) -> Iterator[Clip]:
    """Write the audio of each cut without a problem."""
    sounds = stretches(recording, [cut.span for cut in cuts if not cut.problem])
    stem, is_one = clip_stem(recording.name), len(cuts) == 1 and recording.seconds <= MAX_SECONDS
    for number, found in enumerate(cuts, 1):
        name = stem if is_one else f"{stem}_{number:04d}"
        start, end = (round(value, 3) for value in found.span)
        if found.problem:
            yield Clip(name, recording.name, start, end, found.text, problem=found.problem)
            continue
        audio = next(sounds)
        clipped = float((np.abs(audio) >= FULL_SCALE).mean()) if len(audio) else 0.0
        save_audio(work / f"{name}.wav", leveled(converted(audio, recording.sample_rate), loudness), RATE)
        key = _digest([recording.fingerprint, start, end, loudness, VERSION])
        yield Clip(name, recording.name, start, end, found.text, clipped, audio_key=key)


def converted(audio: np.ndarray, rate: int) -> np.ndarray:
    """audio (N) at `rate` -> (N * RATE / rate)"""
    return np.asarray(librosa.resample(audio, orig_sr=rate, target_sr=RATE), dtype=np.float32)


def leveled(audio: np.ndarray, loudness: float) -> np.ndarray:
    """audio (N) at RATE, amplified to `loudness` LUFS, or less if its peaks would be clipped."""
    meter = LoudnessMeter(RATE)
    meter.add(torch.from_numpy(audio))
    gain, _ = meter.gain(loudness)
    return audio * np.float32(gain)
