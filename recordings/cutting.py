"""Cuts a recording at its pauses into clips of 1 to 10 seconds, each with its words.

A cut lies in a pause of the sound, which the level of the frames shows to 0.01 s. Whisper's word times, which are off
by some 0.1 s, only tell between which words a pause is.

Shapes: W words, P pauses.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recordings.hearing import Word
from recordings.sources import Span

MIN_SECONDS, MAX_SECONDS = 1.0, 10.0  # of a clip
MARGIN_SECONDS = 0.1  # silence that a clip keeps at each end
REACH = 0.25  # seconds between a pause and the gap of two words that it can belong to: twice the error of word times
UNMARKED = 0.1  # seconds that a place without punctuation must be nearer to a pause than one with it
UNSURE_COST = 5.0  # of a cut beside a word whose time is a guess
NO_MARK = 0.8  # cost of a cut after a word without punctuation
UNTOLD_SECONDS = 0.4  # of sound between two pauses at the same place in the text: nothing is written for it
GOOD_SECONDS = 6.0  # the length of a clip that costs nothing
SURE_PAUSE = 0.3  # seconds; a cut in a shorter pause costs more, down to MIN_PAUSE
SILENT_SECONDS = 0.3  # a word with so much silence before and after it is one that nobody says
LONG_PAUSE = 0.8  # seconds; attention does not learn to wait longer inside a clip
DROP_COST = 20.0  # of a stretch that gives no clip, more than any clip costs
ENDS, COMMAS = tuple(".?!\u2026"), tuple(",;:-)\u2013\u2014")  # of a word


@dataclass(frozen=True)
class Cut:
    """A stretch of a recording with its words. `problem` says why it gives no clip, in plain words; "" if it does."""

    span: Span
    text: str
    problem: str = ""


class _Place(NamedTuple):
    """Where a recording can be cut: before word `word`. A clip that ends here ends at `end`, the next starts at
    `start`; both lie in the same pause, or in two with sound between them that is not in the text."""

    word: int
    end: float
    start: float
    cost: float
    pause: float  # seconds without words; infinite if there is sound in it


def whole(text: str, pauses: np.ndarray, seconds: float) -> Cut:
    """A short recording as one clip, without the silence at its ends."""
    start, end = 0.0, seconds
    if len(pauses) and pauses[0, 0] <= 0:
        start = float(pauses[0, 1])
    if len(pauses) and pauses[-1, 1] >= seconds - 0.02:
        end = float(pauses[-1, 0])
    span = Span(max(0.0, start - MARGIN_SECONDS), min(seconds, end + MARGIN_SECONDS))
    length = max(0.0, span.end - span.start)
    return Cut(span, text, "" if length >= MIN_SECONDS else f"{length:.2f} s, less than {MIN_SECONDS:g} s")


def audible(words: Sequence[Word], pauses: np.ndarray) -> list[Word]:
    """The words (W) without those in the middle of a pause (P, 2): in silence, Whisper hears words that nobody says."""
    starts = pauses[:, 0].tolist()
    found = []
    for word in words:
        last = bisect.bisect_right(starts, word.start - SILENT_SECONDS) - 1
        if last < 0 or pauses[last, 1] < word.end + SILENT_SECONDS:
            found.append(word)
    return found


def cut(words: Sequence[Word], pauses: np.ndarray, seconds: float) -> list[Cut]:
    """The cuts of a recording of `seconds`, in order, from its words (W) and its pauses (P, 2).

    Every word is in one of them, with or without a problem. The time is linear in the length of the recording.
    """
    if not words:
        return []
    places = _places(words, pauses, seconds)
    chosen = _cheapest(places)
    return [_cut_between(places[a], places[b], words) for a, b in itertools.pairwise(chosen)]


def _places(words: Sequence[Word], pauses: np.ndarray, seconds: float) -> list[_Place]:
    by_boundary: dict[int, list[Span]] = {}
    # The gap before word i reaches from the end of one word to the start of the next. Times may overlap a little.
    gaps = [(0.0, words[0].start), *((a.end, max(a.end, b.start)) for a, b in itertools.pairwise(words))]
    gaps.append((words[-1].end, max(seconds, words[-1].end)))
    middles = [(start + end) / 2 for start, end in gaps]
    for pause in (Span(float(start), float(end)) for start, end in pauses):
        if (boundary := _boundary(pause, gaps, middles, words)) is not None:
            by_boundary.setdefault(boundary, []).append(pause)
    nothing, end = Span(0.0, 0.0), Span(seconds, seconds)
    by_boundary.setdefault(0, [nothing])
    by_boundary.setdefault(len(words), [end])
    return [_place(boundary, found, words) for boundary, found in sorted(by_boundary.items())]


def _boundary(
    pause: Span, gaps: Sequence[tuple[float, float]], middles: Sequence[float], words: Sequence[Word]
) -> int | None:
    """The place in the text of a pause; None if it is inside a word."""
    middle = (pause.start + pause.end) / 2
    near = bisect.bisect_left(middles, middle)
    best, best_cost = None, math.inf
    for i in range(max(0, near - 3), min(len(gaps), near + 4)):
        start, end = gaps[i]
        distance = max(0.0, pause.start - end, start - pause.end)
        cost = distance + 0.1 * abs(middle - middles[i]) + UNMARKED * (_mark(words, i) == NO_MARK)
        if distance <= REACH and cost < best_cost:
            best, best_cost = i, cost
    return best


def _mark(words: Sequence[Word], boundary: int) -> float:
    """What a cut before word `boundary` costs for the sign at the end of the word before it."""
    if not 0 < boundary < len(words):
        return 0.0
    mark = words[boundary - 1].text.rstrip("\"')\u2019\u201d")
    return 0.0 if mark.endswith(ENDS) else 0.3 if mark.endswith(COMMAS) else NO_MARK


def _is_unsure(words: Sequence[Word], boundary: int) -> bool:
    """Whether a word beside a place has guessed times, so that it may be on the other side of the pause there."""
    is_inner = 0 < boundary < len(words)
    return is_inner and not (words[boundary - 1].is_sure and words[boundary].is_sure)


def _place(boundary: int, found: Sequence[Span], words: Sequence[Word]) -> _Place:
    """The place of one or several pauses at the same boundary."""
    longest = max(found, key=lambda pause: pause.end - pause.start)
    end = start = longest
    longest_sound = max((b.start - a.end for a, b in itertools.pairwise(found)), default=0.0)
    if longest_sound >= UNTOLD_SECONDS:
        end, start = found[0], found[-1]
    length = longest.end - longest.start
    cost = max(0.0, 1 - length / SURE_PAUSE) * 2
    cost += _mark(words, boundary)
    cost += UNSURE_COST * _is_unsure(words, boundary)
    return _Place(
        boundary,
        # Never beyond the middle of a pause, so that clips do not overlap.
        min(end.start + MARGIN_SECONDS, (end.start + end.end) / 2),
        max(start.end - MARGIN_SECONDS, (start.start + start.end) / 2),
        cost,
        math.inf if longest_sound >= UNTOLD_SECONDS else start.end - end.start,
    )


def _cheapest(places: Sequence[_Place]) -> list[int]:
    """The indices of the places to cut at: the cheapest way from the first to the last (dynamic programming)."""
    total, back = [0.0], [0]
    for b in range(1, len(places)):
        best, best_from = math.inf, b - 1
        silence = 0.0  # cost of the long pauses inside of the clip
        for a in range(b - 1, -1, -1):
            length = places[b].end - places[a].start
            if a < b - 1:
                inner = places[a + 1].pause
                silence += DROP_COST if inner == math.inf else 4 * max(0.0, inner - LONG_PAUSE)
                if length > MAX_SECONDS:
                    break
            good = MIN_SECONDS <= length <= MAX_SECONDS
            cost = ((length - GOOD_SECONDS) / 4) ** 2 if good else DROP_COST + max(length, 0.0)
            cost += total[a] + silence + places[b].cost
            if cost < best:
                best, best_from = cost, a
        total.append(best)
        back.append(best_from)
    chosen = [len(places) - 1]
    while chosen[-1]:
        chosen.append(back[chosen[-1]])
    return chosen[::-1]


def _cut_between(a: _Place, b: _Place, words: Sequence[Word]) -> Cut:
    text = " ".join(word.text for word in words[a.word : b.word])
    start, end = a.start, b.end
    length = end - start
    if length < MIN_SECONDS:
        return Cut(Span(start, max(start, end)), text, f"{max(0.0, length):.2f} s, less than {MIN_SECONDS:g} s")
    for boundary in (a.word, b.word):
        if _is_unsure(words, boundary):
            near = " ".join(word.text for word in words[boundary - 1 : boundary + 1])
            return Cut(Span(start, end), text, f"uncertain cut, Whisper did not hear the words there: {near!r}")
    if length > MAX_SECONDS:
        return Cut(Span(start, end), text, f"{length:.1f} s without a pause between words, more than {MAX_SECONDS:g} s")
    return Cut(Span(start, end), text)
