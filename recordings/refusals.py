"""Refuses what cannot become a voice, before anything is trained: music, another language, several speakers,
transcripts of something else, too little speech. Each refusal is a UserError with its cure.

Shapes: C clips, E = 256 values of an embedding.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.wording import counted
from recordings.checks import MIN_CLIPS, Measured
from recordings.clips import Clip, Clips
from recordings.hearing import Heard, Piece
from recordings.transcripts import NONE

MIN_SPEECH_SECONDS = 60.0  # in all
MIN_SPEECH_SHARE = 0.1  # of the audio
MIN_WORDS_PER_SECOND = 0.5  # of what is taken for speech; slow readers say more than one
MIN_LOG_PROBABILITY = -0.75  # median of the pieces; those of LJSpeech have -0.40 to -0.13
MIN_LANGUAGE_PROBABILITY = 0.5  # of another language than the expected one, to believe it
MIN_SHARE_EQUAL = 0.4  # of the words of a transcript heard as they are written, median of the recordings
MAX_WRONG_CLIPS = 0.5  # share of the clips whose text is not heard
MAX_SAME_SPEAKER = 0.8  # cosine of the centers of two groups; LJSpeech has 0.95, with the bundled voice 0.68
MIN_SECOND_SPEAKER = 0.15  # share of the clips in the smaller group; fewer clips are dropped one by one
ROUNDS = 20  # of k-means


def refuse_unheard(folder: str, heard: Sequence[Heard], whole_seconds: float, language: str) -> None:
    """Raise a UserError if what was heard is no speech, too little, or another language.

    `whole_seconds`: of short recordings with transcripts, which were not heard yet.
    """
    pieces = [piece for found in heard for piece in found.pieces]
    audio = sum(piece.end - piece.start for piece in pieces)
    speech = sum(piece.speech_seconds for piece in pieces)
    words = sum(piece.num_words for piece in pieces)
    spoken = [piece for piece in pieces if piece.num_words]
    if audio > whole_seconds:
        if speech < MIN_SPEECH_SHARE * audio or words < MIN_WORDS_PER_SECOND * speech:
            raise UserError(
                f"recordings={folder}: {_minutes(audio)} of audio, but only {_minutes(speech)} of it sound like "
                f"speech, and Whisper hears {counted(words, 'word')}; is it music or noise? Give recordings of one "
                "person who reads or talks"
            )
        _refuse_language(folder, heard, spoken, language)
    if speech + whole_seconds < MIN_SPEECH_SECONDS:
        raise UserError(
            f"recordings={folder}: {speech + whole_seconds:.0f} s of speech; at least {MIN_SPEECH_SECONDS:.0f} s are "
            "needed, 5 minutes make a voice, and 20 or more a better one: add recordings"
        )


def _refuse_language(folder: str, heard: Sequence[Heard], spoken: Sequence[Piece], language: str) -> None:
    others = [
        f for f in heard if f.language not in (None, language) and f.language_probability >= MIN_LANGUAGE_PROBABILITY
    ]
    seconds, every = (sum(found.speech_seconds for found in group) for group in (others, heard))
    if others and seconds > every / 2:
        found = statistics.mode(str(other.language) for other in others)
        raise UserError(
            f"recordings={folder}: Whisper takes the language for {found!r}, but language={language!r}. Give other "
            f"recordings, or set language={found} and whisper= in cut_recordings.py, and train by docs/languages.md: "
            "build_voice.py makes English voices"
        )
    likelihood = median_log_probability(spoken)
    if likelihood < MIN_LOG_PROBABILITY:
        cure = (
            "for another language, set language= and whisper=small in cut_recordings.py, and train by "
            "docs/languages.md: build_voice.py makes English voices"
            if language == "en"
            else "check language="
        )
        raise UserError(
            f"recordings={folder}: there is speech, but Whisper is unsure of its words (log-probability "
            f"{likelihood:.2f}, clear English has more than {MIN_LOG_PROBABILITY}): another language, a bad microphone "
            f"or much noise. Listen to some; {cure}"
        )


def median_log_probability(pieces: Sequence[Piece]) -> float:
    """The median over the pieces in which something is heard; 0 if there is none."""
    return statistics.median([p.log_probability for p in pieces if not math.isnan(p.log_probability)] or [0.0])


def refuse_other_transcripts(folder: str, layout: str, clips: Sequence[Clips]) -> None:
    """Raise a UserError if the words that are heard are not those of the transcripts, which then belong elsewhere."""
    shares = [found.share_equal for found in clips if found.share_equal is not None]
    if shares and (share := statistics.median(shares)) < MIN_SHARE_EQUAL:
        raise UserError(
            f"recordings={folder}: only {share:.0%} of the words of the transcripts ({layout}) are heard in their "
            "recordings; correct ones reach about 90 %. Are they those of other recordings, or in another "
            "language? Correct the file names, or remove the transcripts to have all written by Whisper"
        )


def refuse_wrong_clips(folder: str, layout: str, measured: Sequence[Measured]) -> None:
    """Raise a UserError if in most clips other words are heard than their text has."""
    wrong = [found for found in measured if found.says_something_else]
    if len(wrong) > MAX_WRONG_CLIPS * len(measured):
        example, clips = wrong[0], f"{len(wrong):,} of {counted(len(measured), 'clip')}"
        if layout == NONE:
            raise UserError(
                f"recordings={folder}: in {clips} Whisper hears other words than at first, as in {example.name}: "
                f"{example.heard[:60]!r}. Is it noise, music or another language? Listen to some"
            )
        raise UserError(
            f"recordings={folder}: in {clips} Whisper hears other words than their texts ({layout}), as in "
            f"{example.name}: {example.heard[:60]!r}. Are the transcripts those of other recordings, or in another "
            "language? Correct the file names, or remove the transcripts to have all written by Whisper"
        )


class Groups(NamedTuple):
    """Two groups of clips by their voices: whether each clip is in the second (C), and the cosine of the centers."""

    is_second: np.ndarray
    similarity: float


def two_groups(voices: np.ndarray) -> Groups:
    """Divide embeddings (C, E) of length 1 in two groups: k-means, from the two clips that differ most.

    It starts with the clip farthest from the median and the one farthest from that, so it needs no randomness.
    """
    middle = np.median(voices, axis=0)
    first = voices[int((voices @ middle).argmin())]
    centers = np.stack([first, voices[int((voices @ first).argmin())]])
    second = np.zeros(len(voices), bool)
    for _ in range(ROUNDS):
        now = voices @ centers[1] > voices @ centers[0]
        if now.all() or not now.any() or (now == second).all():
            break
        second = now
        centers = np.stack([voices[~second].mean(axis=0), voices[second].mean(axis=0)])
        centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    return Groups(second, float(centers[0] @ centers[1]))


def refuse_speakers(folder: str, clips: Sequence[Clip], measured: dict[str, Measured]) -> None:
    """Raise a UserError if there are two voices, and neither has only a few clips."""
    here = [clip for clip in clips if clip.name in measured]
    if len(here) < MIN_CLIPS:
        return
    groups = two_groups(np.array([measured[clip.name].voice for clip in here]))
    share = float(groups.is_second.mean())
    if groups.similarity > MAX_SAME_SPEAKER or min(share, 1 - share) < MIN_SECOND_SPEAKER:
        return
    examples = [
        f"{counted(int((groups.is_second == side).sum()), 'clip')} such as {_example(here, groups.is_second == side)}"
        for side in (False, True)
    ]
    raise UserError(
        f"recordings={folder}: there are two voices (similarity {groups.similarity:.2f}; clips of one speaker have "
        f"more than {MAX_SAME_SPEAKER}): {' and '.join(examples)}. A voice has one speaker: leave only that one's "
        "recordings in the folder, or name the speakers in a table with a column speaker and choose with speaker=NAME"
    )


def _example(clips: Sequence[Clip], chosen: np.ndarray) -> str:
    clip = clips[int(np.flatnonzero(chosen)[0])]
    return f"{clip.recording} at {clip.start:.1f} s"


def refuse_few(folder: str, clips: Sequence[Clip], dropped: Sequence[str]) -> None:
    """Raise a UserError if too little is left; `dropped` are the reasons for the rest."""
    seconds = sum(clip.seconds for clip in clips)
    if seconds < MIN_SPEECH_SECONDS:
        most = f"; most of the rest: {statistics.mode(dropped)}" if dropped else ""
        raise UserError(
            f"recordings={folder}: only {seconds:.0f} s of good clips, at least {MIN_SPEECH_SECONDS:.0f} s are "
            f"needed{most}. All are listed in dropped.csv of the output; add recordings or improve these"
        )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes"
