"""Finds transcripts that do not belong to their clips, such as a metadata.csv whose texts are shifted by a row.

Without a model, the length of a transcript tells how long its speech should be: in LJSpeech the logarithm of one
predicts that of the other with a standard deviation of 0.09, while clips differ by 0.4. With Whisper, the words are
compared.

Shapes: N clips in the order of metadata.csv, K shifts.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from common.audio import load_audio
from common.config import AudioConfig
from common.errors import UserError
from common.wording import counted
from evaluation.corpus import Row
from evaluation.judges import RATE, Listener, errors
from tacotron2.text.cleaners import english_cleaners

SHIFTS = (0, -1, 1, -2, 2)
DEVIATION = 0.2  # of a logarithm of speech seconds per symbol, generously
MAX_COST = 4.0  # of a clip: one odd clip does not decide
SWITCH_COST = 10.0  # of a shift, and of its end; the texts of a dozen clips outweigh it
GOOD_FIT, MIN_ROWS = 0.6, 8  # mean cost of the clips of a shift, and how many must have it
RELATED = 0.4  # correlation of the lengths of texts and speech
MIN_RELATED_ROWS, MIN_SPREAD = 20, 0.2  # fewer texts, or texts of lengths so equal, need not show a correlation
HIGH, LOW = 0.5, 0.3  # word error rates: of another text, of the right one


class Shift(NamedTuple):
    """Clips `first` to `last` (inclusive) fit the transcripts `rows` further on; negative: before."""

    first: int
    last: int
    rows: int


def costs(speech: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """speech (N) seconds, symbols (N) -> (K, N): how badly the length of the text at each of SHIFTS fits each clip."""
    length, text = np.log(speech), np.log(symbols)
    text = text + np.median(length) - np.median(text)
    found = np.zeros((len(SHIFTS), len(length)))  # without a text at that place, nothing speaks against the shift
    for k, shift in enumerate(SHIFTS):
        clips = np.arange(max(0, -shift), len(length) - max(0, shift))
        found[k, clips] = np.minimum((length[clips] - text[clips + shift]) ** 2 / (2 * DEVIATION**2), MAX_COST)
    return found


def find_shifts(speech: np.ndarray, symbols: np.ndarray) -> list[Shift]:
    """The runs of clips whose transcripts are shifted: the cheapest sequence of shifts (Viterbi's algorithm)."""
    cost = costs(speech, symbols)
    total, back = cost[:, 0] + SWITCH_COST * (np.array(SHIFTS) != 0), []
    for now in cost.T[1:]:
        best = int(total.argmin())
        stays = total <= total[best] + SWITCH_COST
        back.append(np.where(stays, np.arange(len(SHIFTS)), best))
        total = np.where(stays, total, total[best] + SWITCH_COST) + now
    states = [int(total.argmin())]
    for before in reversed(back):
        states.append(int(before[states[-1]]))
    states.reverse()
    runs, first = [], 0
    for state, group in itertools.groupby(states):
        last = first + len(list(group)) - 1
        if SHIFTS[state] and last - first + 1 >= MIN_ROWS and cost[state, first : last + 1].mean() < GOOD_FIT:
            runs.append(Shift(first, last, SHIFTS[state]))
        first = last + 1
    return runs


def mismatched_lengths(rows: Sequence[Row]) -> list[str]:
    """Problems of the whole corpus that the lengths of its texts and speech show. `rows` are in the corpus's order."""
    if len(rows) < MIN_ROWS:
        return []
    speech = np.array([row.sound.speech_seconds for row in rows])
    symbols = np.array([float(row.text.num_symbols) for row in rows])
    shifts = find_shifts(speech, symbols)
    problems = [_describe(rows, shift, speech, symbols) for shift in shifts]
    rest = np.ones(len(rows), bool)
    for shift in shifts:
        rest[shift.first : shift.last + 1] = False
    if rest.sum() >= MIN_RELATED_ROWS and np.log(symbols[rest]).std() >= MIN_SPREAD:
        related = _correlation(speech[rest], symbols[rest])
        if related < RELATED:
            problems.append(
                f"the lengths of transcripts and speech have a correlation of {related:.2f} in {rest.sum():,} clips; "
                "with the right transcripts it is 0.9 or more. Are the transcripts those of other clips? Listen to "
                "some; whisper=true lists what is said"
            )
    return problems


def _describe(rows: Sequence[Row], shift: Shift, speech: np.ndarray, symbols: np.ndarray) -> str:
    clips = np.arange(max(shift.first, -shift.rows), min(shift.last + 1, len(rows) - shift.rows))
    own, other = (_correlation(speech[clips], symbols[clips + offset]) for offset in (0, shift.rows))
    return (
        f"{_names(rows, shift)}: the transcripts are shifted: the speech of each clip fits the text of the clip "
        f"{_place(shift.rows)} (correlation of their lengths {other:.2f}) and not its own ({own:.2f}); "
        f"{_cure(shift.rows)}"
    )


def _names(rows: Sequence[Row], shift: Shift) -> str:
    first, last = rows[shift.first].clip, rows[shift.last].clip
    return f"{first.path} to {last.path} ({counted(shift.last - shift.first + 1, 'clip')})"


def _place(shift: int) -> str:
    return f"{counted(abs(shift), 'row')} {'below' if shift > 0 else 'above'} in metadata.csv"


def _cure(shift: int) -> str:
    return (
        f"move their texts {'up' if shift > 0 else 'down'} by {counted(abs(shift), 'row')} in metadata.csv and run "
        "scripts/prepare_dataset.sh again"
    )


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation, on which a few odd clips have little effect."""
    ranks = np.array([np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (x, y)], float)
    return float(np.corrcoef(ranks)[0, 1])


def mismatched_words(rows: Sequence[Row], num_clips: int) -> tuple[list[str], list[str], list[str]]:
    """Let Whisper hear `num_clips` of `rows`, evenly spaced: problems of the whole corpus, bad rows, unusual rows."""
    listener, bad, notes, found = Listener(), [], [], Counter[int]()
    places = np.unique(np.linspace(0, len(rows) - 1, min(num_clips, len(rows))).round().astype(int)).tolist()
    for place in tqdm(places, unit="clip", desc="Whisper", disable=None):
        clip = rows[place].clip
        heard = listener(load_audio(clip.file, AudioConfig(sample_rate=RATE), convert=True), RATE)
        rates = {shift: _error_rate(rows, place + shift, heard) for shift in SHIFTS}
        if not HIGH <= (own := rates[0]) < math.inf:
            continue
        shift = min(rates, key=rates.__getitem__)
        message = f"{clip.where}: {clip.path}: Whisper hears {heard[:60]!r}, the transcript is {clip.text[:60]!r}"
        if rates[shift] < LOW:
            found[shift] += 1
            bad.append(f"{message}; that is the text {_place(shift)}: {_cure(shift)}")
        else:
            notes.append(f"{message} ({own:.0%} of its words differ); correct it if it is wrong, or remove the row")
    wrong = len(bad) + len(notes)
    if wrong < max(3, len(places) / 2):
        return [], bad, notes
    shift, number = found.most_common(1)[0] if found else (0, 0)
    shifted = f"; {number:,} of these say the text {_place(shift)}: {_cure(shift)}" if number > wrong / 2 else ""
    cure = shifted or "; are the transcripts those of other clips, or in another language?"
    whole = f"Whisper hears other words than the transcripts in {wrong:,} of {counted(len(places), 'clip')}{cure}"
    return [whole], bad, notes


def _error_rate(rows: Sequence[Row], place: int, heard: str) -> float:
    """The word error rate of what was heard against the transcript at `place`; infinite if they cannot be compared."""
    if not 0 <= place < len(rows):
        return math.inf
    try:
        # The cleaners read "1469" as years are read, which Whisper's normalizer does not.
        found = errors(english_cleaners(rows[place].clip.text), english_cleaners(heard))
    except UserError:  # ARPAbet, or no word
        return math.inf
    return found.words_wrong / found.words
