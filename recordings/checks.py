"""Checks each clip: is its text what is said, at a usual rate, undistorted, without noise, by the voice of the others?

`hear` takes about two seconds a clip; `problem` decides from what it found, and costs nothing. The limits keep
339 of 350 clips of LJSpeech.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.audio import read_audio
from common.files import make_directory, read_json_lines, writing
from common.parallel import in_parallel
from evaluation.judges import Cleanness, Listener, SpeakerEncoder, incomparable, optional
from recordings.alignment import keys_of
from recordings.clips import Clip, Clips
from tacotron2.text.cleaners import spoken_form

VERSION = 1  # of the results: another one makes all of them stale
MAX_WORD_ERRORS = 0.34  # share of the words of the text; tiny.en gets at most 0.29 wrong in clips of LJSpeech
MAX_LETTER_ERRORS = 0.2  # of the letters of the text: names that are heard wrong still sound alike
MAX_EDGE_LETTERS = 3  # of a word at an end of the text that is not heard, or that is heard beyond it
MAX_RATE_DEVIATION = 0.7  # of the logarithm of letters per second from the median: half to twice as fast
MAX_CLIPPED = 0.001  # share of the samples at full scale
MIN_CLEAN = 2.2  # DNSMOS, overall, 1 to 5; LJSpeech has 2.3 to 3.5, with white noise at 10 dB 2.05 to 2.3
# Cosine of a clip's Resemblyzer embedding and the median of all. Clips of LJSpeech have 0.80 or more, those of the
# bundled voice beside them 0.64 to 0.72.
MIN_SAME_VOICE = 0.75
MIN_CLIPS = 8  # below this number, medians of the corpus say nothing


class Job(NamedTuple):
    """What `hear` needs to know of a clip."""

    file: Path
    key: str  # names the clip's audio and the model
    whisper: str | None
    language: str


class Sound(NamedTuple):
    """What the judges found in the audio of a clip, whatever its text."""

    key: str
    heard: str  # by Whisper
    clean: float  # DNSMOS, overall
    voice: list[float]  # Resemblyzer's embedding (256)


@dataclass
class Measured:
    """A clip as the judges hear it, beside its text. `edge`: words at an end of the text that are not heard, or that
    are heard but are not in the text."""

    name: str
    heard: str
    words: int
    word_errors: int
    edge: str
    letters_per_second: float
    clean: float
    voice: list[float]

    letter_error_rate: float = 1.0

    @property
    def error_rate(self) -> float:
        return self.word_errors / max(1, self.words)

    @property
    def says_something_else(self) -> bool:
        """Whether other words are heard, and not only the same ones in another spelling."""
        return self.error_rate > MAX_WORD_ERRORS and self.letter_error_rate > MAX_LETTER_ERRORS


@functools.cache
def _judges(whisper: str | None, language: str) -> tuple[Listener, Cleanness, SpeakerEncoder]:
    """Loaded once in each process. Of several processes, each keeps to one core."""
    num_threads = 0 if multiprocessing.parent_process() is None else 1
    return Listener(whisper, language, num_threads), Cleanness(), SpeakerEncoder()


def check_all(
    clips: Sequence[Clips], audio: Path, work: Path, whisper: str | None, language: str, num_processes: int | None
) -> dict[str, Measured]:
    """What is found in each clip that has audio, by name. `work` keeps the results of earlier runs, clip by clip; they
    depend on the audio, so that a text can be corrected without hearing the clip again."""
    make_directory(work, "output")
    file = work / "clips.jsonl"
    every = [clip for found in clips for clip in found.clips if not clip.problem]
    keys = {clip.name: f"{clip.audio_key}:{whisper or 'tiny.en'}:{language}:{VERSION}" for clip in every}
    rows = read_json_lines(file) if file.is_file() else []
    known = {row["key"]: Sound(**row) for row in rows if set(row) == set(Sound._fields)}
    new = [
        Job(audio / f"{clip.name}.wav", keys[clip.name], whisper, language)
        for clip in every
        if keys[clip.name] not in known
    ]
    if new:
        with open(file, "a", encoding="utf-8") as results:
            if rows:
                results.write("\n")  # the last line of a run that was killed may have no end
            for sound in in_parallel(hear, new, num_processes, "clip"):
                with writing(file):
                    results.write(json.dumps(sound._asdict(), ensure_ascii=False) + "\n")
                    results.flush()
                known[sound.key] = sound
    return {clip.name: measure(clip, known[keys[clip.name]], language) for clip in every}


def hear(job: Job) -> Sound:
    """Let the judges hear one clip."""
    listener, cleanness, encoder = _judges(job.whisper, job.language)
    samples, rate = read_audio(job.file)
    voice = [round(float(value), 5) for value in encoder(samples, rate)]
    return Sound(job.key, listener(samples, rate), round(cleanness(samples, rate)["ovrl"], 3), voice)


def measure(clip: Clip, sound: Sound, language: str) -> Measured:
    """Compare what was heard in a clip with its text."""
    words, wrong, edge = compare(clip.text, sound.heard)
    rate = sum(map(str.isalnum, spoken_form(clip.text, language))) / clip.seconds
    letters = letter_error_rate(clip.text, sound.heard)
    return Measured(clip.name, sound.heard, words, wrong, edge, rate, sound.clean, sound.voice, letters)


def compare(text: str, heard: str) -> tuple[int, int, str]:
    """The words of the text, the word errors of what was heard, and the longest error at an end of the text."""
    jiwer = optional("jiwer")
    given, found = (list(_words(written)) for written in (text, heard))
    if not given or not found:
        return len(given), len(given), " ".join(given)
    # Where words are divided in other ways ("any one", "anyone"), the letters agree.
    if "".join(given) == "".join(found):
        return len(given), 0, ""
    result = jiwer.process_words(" ".join(given), " ".join(found))
    wrong = result.substitutions + result.deletions + result.insertions
    chunks = result.alignments[0]
    ends = [_edge(chunks[:2], given, found), _edge(chunks[:-3:-1], given, found)]
    return len(given), wrong, max(ends, key=len)


def letter_error_rate(text: str, heard: str) -> float:
    """Letters that differ, as a share of those of the text; words may be divided in other ways."""
    given, found = ("".join(_words(written)) for written in (text, heard))
    return float(optional("jiwer").process_characters(given, found).cer) if given and found else 1.0


def _edge(chunks: Sequence[Any], given: Sequence[str], found: Sequence[str]) -> str:
    """The words at an end that are only given or only heard; `chunks` are the two parts of the alignment there.

    Beside a wrong word they may be one word heard as two, "cast ones" for "Caslon's", if the letters are about
    as many.
    """
    first, letters = chunks[0], 0
    if first.type not in ("delete", "insert"):
        return ""
    for chunk in chunks[: 2 if chunks[-1].type == "substitute" else 1]:
        letters += len("".join(given[chunk.ref_start_idx : chunk.ref_end_idx]))
        letters -= len("".join(found[chunk.hyp_start_idx : chunk.hyp_end_idx]))
    if len(chunks) > 1 and chunks[-1].type == "substitute" and abs(letters) <= MAX_EDGE_LETTERS:
        return ""
    only_given = given[first.ref_start_idx : first.ref_end_idx]
    return " ".join(only_given or found[first.hyp_start_idx : first.hyp_end_idx])


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        yield from keys_of(word)


class Corpus(NamedTuple):
    """What clips are compared with."""

    letters_per_second: float  # the median
    voice: np.ndarray  # (256), of length 1: the median embedding
    is_large: bool  # enough clips for these to mean something


def corpus_of(measured: Sequence[Measured]) -> Corpus:
    """The medians of all clips that are heard about as they are written."""
    good = [found for found in measured if not found.says_something_else] or list(measured)
    if not good:
        return Corpus(0.0, np.zeros(256), False)
    voice = np.median(np.array([found.voice for found in good]), axis=0)
    rate = statistics.median(found.letters_per_second for found in good)
    return Corpus(rate, voice / max(float(np.linalg.norm(voice)), 1e-9), len(good) >= MIN_CLIPS)


def problem(clip: Clip, found: Measured, corpus: Corpus, language: str = "en") -> str:
    """Why a clip should not train a voice, with the value and the limit; "" if nothing is wrong with it."""
    if not found.heard or not found.words:
        return "Whisper hears no words in it"
    if language == "en" and (reason := incomparable(clip.text)):  # the judges of the voice would refuse it
        return reason
    if found.says_something_else:
        return (
            f"Whisper hears other words: {found.word_errors} of {found.words} differ, more than {MAX_WORD_ERRORS:.0%}: "
            f"{found.heard[:80]!r}"
        )
    if len(found.edge) > MAX_EDGE_LETTERS:
        return f"a word at an end is only in the text or only in the sound: {found.edge[:40]!r}"
    if clip.clipped > MAX_CLIPPED:
        return f"clipping: {clip.clipped:.2%} of the samples are at full scale, more than {MAX_CLIPPED:.1%}"
    if found.clean < MIN_CLEAN:
        return f"noise: DNSMOS gives {found.clean:.2f}, less than {MIN_CLEAN}"
    if corpus.is_large:
        ratio = found.letters_per_second / corpus.letters_per_second
        if abs(np.log(max(ratio, 1e-9))) > MAX_RATE_DEVIATION:
            return (
                f"an unusual rate: {found.letters_per_second:.1f} letters per second, {ratio:.2f} times the median; "
                f"{np.exp(-MAX_RATE_DEVIATION):.2f} to {np.exp(MAX_RATE_DEVIATION):.2f} times are usual"
            )
        same = float(np.dot(found.voice, corpus.voice))
        if same < MIN_SAME_VOICE:
            return f"another voice: its similarity with the others is {same:.2f}, less than {MIN_SAME_VOICE}"
    return ""
