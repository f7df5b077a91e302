"""What Whisper hears in a recording, with the time of each word.

A recording is heard in pieces of at most 29 s, the length that Whisper hears at once, cut where it is quietest. So
memory does not grow with the length of a recording, except for its words.

Shapes: N samples, float32.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import librosa
import numpy as np
from tqdm import tqdm

from common.files import make_directory, write_text
from evaluation.judges import RATE, Listener, optional
from recordings.sources import Recording, blocks, refuse_changed

VERSION = 2  # of the results: another one makes all of them stale
MIN_PIECE, MAX_PIECE = 15.0, 29.0  # seconds
FRAME_SECONDS = 0.01
QUIET_FRAMES = 30  # a piece ends in the middle of the quietest 0.3 s
MAX_COMPRESSION = 2.4  # as in Whisper's own code: a text that zlib makes smaller than this repeats itself
REPEATED_LOG_PROBABILITY = -2.0  # what such a text counts as: Whisper is sure of it, also where no word of it is said
MIN_SPEECH_SECONDS = 0.3  # in a piece without more, Whisper would write down what nobody says


class Word(NamedTuple):
    """A word as it is written, and when it is heard: seconds from the start of the recording. `is_sure` is False if the
    times are only a guess."""

    text: str
    start: float
    end: float
    is_sure: bool = True


class Piece(NamedTuple):
    """A stretch that Whisper heard at once."""

    start: float
    end: float
    speech_seconds: float  # that Silero's voice activity detector finds
    log_probability: float  # mean of the tokens, of Whisper; nan if it heard nothing
    num_words: int  # also of texts that repeat themselves, which are no words of the recording


@dataclass
class Heard:
    """The words of a recording. `language` is what Whisper takes it for, with its probability; None with a model that
    knows only English."""

    words: list[Word]
    pieces: list[Piece]
    language: str | None = None
    language_probability: float = 0.0

    @property
    def speech_seconds(self) -> float:
        return sum(piece.speech_seconds for piece in self.pieces)


def hear_all(
    recordings: Sequence[Recording], work: Path, whisper: str | None, language: str = "en"
) -> Iterator[tuple[Recording, Heard]]:
    """Yield what is heard in each recording, in order; results are kept in `work` as NAME.json, and used again while
    the recording and the model are the same.

    Raises UserError if a recording cannot be read or changes meanwhile.
    """
    make_directory(work, "output")
    listener: Listener | None = None
    bar: tqdm[Any] | None = None
    for place, recording in enumerate(recordings):
        file = work / f"{recording.name.replace('/', '~')}.json"
        fingerprint = heard_fingerprint(recording, whisper, language)
        heard = _kept(file, fingerprint)
        if heard is None:
            if listener is None or bar is None:
                listener = Listener(whisper, language)
                seconds = sum(other.seconds for other in recordings[place:])
                bar = tqdm(total=round(seconds), unit="s", desc="Whisper", disable=None)
            heard = hear(recording, listener, bar.update)
            refuse_changed(recording)
            content = {"fingerprint": fingerprint, **dataclasses.asdict(heard)}
            write_text(file, json.dumps(content, ensure_ascii=False))
        yield recording, heard
    if bar is not None:
        bar.close()


def heard_fingerprint(recording: Recording, whisper: str | None, language: str) -> dict[str, Any]:
    """What a result depends on."""
    return {**recording.fingerprint, "whisper": whisper or "tiny.en", "language": language, "version": VERSION}


def _kept(file: Path, fingerprint: dict[str, Any]) -> Heard | None:
    """The result in a file, if it is there, complete and still valid."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("fingerprint") != fingerprint:
            return None
        words = [Word(*word) for word in content.pop("words")]
        pieces = [Piece(*piece) for piece in content.pop("pieces")]
        return Heard(words, pieces, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def hear(recording: Recording, listener: Listener, progress: Callable[[float], Any] = lambda seconds: None) -> Heard:
    """What is said in one recording. `progress` is called with the seconds that were heard since it was called last."""
    words: list[Word] = []
    found: list[Piece] = []
    language, probability, longest = None, 0.0, 0.0
    for start, audio in pieces(recording):
        end = start + len(audio) / RATE
        speech = speech_seconds(audio)
        segments = listener.segments(audio, word_timestamps=True) if speech >= MIN_SPEECH_SECONDS else []
        good = [segment for segment in segments if segment.compression_ratio <= MAX_COMPRESSION]
        words += [_word(word, start) for segment in good for word in segment.words or [] if word.word.strip()]
        number = sum(len(segment.text.split()) for segment in segments)
        likelihood = round(_log_probability(segments), 4)
        found.append(Piece(round(start, 3), round(end, 3), round(speech, 2), likelihood, number))
        progress(end - start)
        if speech > longest and listener.model.model.is_multilingual:
            longest = speech
            language, probability, _ = listener.model.detect_language(audio)
    return Heard(words, found, language, float(probability))


def _log_probability(segments: Sequence[Any]) -> float:
    """The mean of all tokens; nan if there are none."""
    values = [
        (REPEATED_LOG_PROBABILITY if s.compression_ratio > MAX_COMPRESSION else s.avg_logprob, len(s.tokens))
        for s in segments
    ]
    tokens = sum(number for _, number in values)
    return float(sum(value * number for value, number in values) / tokens) if tokens else math.nan


def _word(word: Any, offset: float) -> Word:
    """One of faster-whisper's words, in a piece that starts at `offset` seconds."""
    return Word(word.word.strip(), round(float(offset + word.start), 3), round(float(offset + word.end), 3))


def pieces(recording: Recording) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (start in seconds, samples (N) at RATE) of the pieces of a recording, which together are all of it."""
    rate = recording.sample_rate
    buffer, offset = np.zeros(0, np.float32), 0
    for block in blocks(recording):
        buffer = np.concatenate([buffer, block])
        while len(buffer) > MAX_PIECE * rate:
            end = quietest(buffer, rate)
            yield offset / rate, _resampled(buffer[:end], rate)
            buffer, offset = buffer[end:], offset + end
    if len(buffer):
        yield offset / rate, _resampled(buffer, rate)


def quietest(audio: np.ndarray, rate: int) -> int:
    """The sample between MIN_PIECE and MAX_PIECE seconds around which audio (N) is quietest for 0.3 s."""
    size = max(1, int(FRAME_SECONDS * rate))
    first, last = int(MIN_PIECE * rate) // size, int(MAX_PIECE * rate) // size
    frames = audio[first * size : last * size].reshape(-1, size)
    power = np.einsum("fs,fs->f", frames, frames, dtype=np.float64)
    smooth = np.convolve(power, np.ones(QUIET_FRAMES), "valid")
    best = len(smooth) - 1 - int(smooth[::-1].argmin())  # the last one of several equal ones
    return (first + best + QUIET_FRAMES // 2) * size


def _resampled(audio: np.ndarray, rate: int) -> np.ndarray:
    return np.asarray(librosa.resample(audio, orig_sr=rate, target_sr=RATE), dtype=np.float32)


def speech_seconds(audio: np.ndarray) -> float:
    """How much of audio (N) at RATE is speech, by Silero's voice activity detector, which comes with faster-whisper."""
    vad = optional("faster_whisper.vad")
    options = vad.VadOptions(min_silence_duration_ms=300, speech_pad_ms=0)
    found = vad.get_speech_timestamps(audio, options)
    return float(sum(span["end"] - span["start"] for span in found)) / RATE
