"""Aligns the words of a given transcript with those that Whisper hears, and takes over their times.

First come the runs of words that occur once in both (as in Bram Cohen's patience diff), which keeps the time nearly
linear in the length of a recording; what lies between two of them is short, and is aligned by dynamic programming.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from common.errors import UserError
from evaluation.judges import normalized
from recordings.hearing import Word
from tacotron2.text.cleaners import english_cleaners

APOSTROPHE = "\u2019"
RUNS = (4, 3, 2, 1)  # words that must be the same, one after the other, and occur once; longer ones first
MAX_CELLS = 250_000  # of dynamic programming; a larger gap without a common word is left unaligned
SUBSTITUTION, GAP = 1.0, 0.7  # costs; two gaps cost more than a substitution, so that a word heard wrong keeps its time
MIN_LETTER = 0.04  # seconds of a letter, half of what is usual
MAX_NEIGHBORS = 4  # words on each side of those without a time that may give them some of theirs
SIMILAR = 0.5  # cost of a substitution by a word with the same first or last letters


class Aligned(NamedTuple):
    """The words of a transcript with times, and how many of them were heard as they are written."""

    words: list[Word]
    num_equal: int
    extra: list[Word]  # words that were heard and that no given word stands for


class _Key(NamedTuple):
    """A word as it is compared, and the place of the word that it is a part of."""

    word: str
    owner: int


@functools.lru_cache(maxsize=20_000)
def keys_of(word: str) -> tuple[str, ...]:
    """A written word as the words that are compared: "1469," -> fourteen, sixty, nine, each in Whisper's normal form.

    Each part is normalized alone: the normalizer would join numbers in succession, whose times differ.
    """
    parts = re.findall(r"[^\W_]+(?:'[^\W_]+)*", english_cleaners(word.replace(APOSTROPHE, "'")))
    found: list[str] = []
    for part in parts:
        try:
            found += normalized(part).split()
        except UserError:  # a filler such as "um", of which nothing is left
            found.append(part)
    return tuple(found)


def align(given: Sequence[str], heard: Sequence[Word]) -> Aligned:
    """Give each of the `given` words the time of the heard word that it is aligned with.

    Words without one share the time between their neighbors, in proportion to their letters. If nothing was heard, the
    result has no words.
    """
    if not heard:
        return Aligned([], 0, [])
    a = [_Key(key, place) for place, word in enumerate(given) for key in keys_of(word)]
    b = [_Key(key, place) for place, word in enumerate(heard) for key in keys_of(word.text)]
    pairs = _matches([key.word for key in a], [key.word for key in b])
    spans: list[tuple[float, float] | None] = [None] * len(given)
    used, equal = set[int](), set[int]()
    parts = _parts(given, pairs, a, b, heard)
    for i, j in pairs:
        part, owner = parts[(a[i].owner, b[j].owner)], a[i].owner
        start, end = spans[owner] or part
        spans[owner] = (min(start, part[0]), max(end, part[1]))
        used.add(b[j].owner)
        if a[i].word == b[j].word:
            equal.add(owner)
    return Aligned(
        _filled(given, spans, heard),
        len(equal),
        [word for place, word in enumerate(heard) if place not in used],
    )


def _parts(
    given: Sequence[str], pairs: Sequence[tuple[int, int]], a: Sequence[_Key], b: Sequence[_Key], heard: Sequence[Word]
) -> dict[tuple[int, int], tuple[float, float]]:
    """(given word, heard word) -> its time. Given words that are heard as one, like a number in digits, share it."""
    owners: dict[int, list[int]] = {}
    for i, j in pairs:
        group = owners.setdefault(b[j].owner, [])
        if a[i].owner not in group:
            group.append(a[i].owner)
    found = {}
    for place, group in owners.items():
        word, sizes = heard[place], [_size(given[owner]) for owner in group]
        length = (word.end - word.start) / sum(sizes)
        bounds = [word.start + length * passed for passed in itertools.accumulate(sizes, initial=0)]
        for owner, span in zip(group, itertools.pairwise(bounds), strict=True):
            found[(owner, place)] = span
    return found


def _filled(given: Sequence[str], spans: Sequence[tuple[float, float] | None], heard: Sequence[Word]) -> list[Word]:
    """The given words with their spans, and with guessed ones where they have none; all starts and ends in order."""
    guessed: set[int] = set()
    result = [span or (math.nan, math.nan) for span in spans]
    edges = (heard[0].start, heard[-1].end)
    place = 0
    while place < len(spans):
        last = place  # the run of words without a span ends before it
        while last < len(spans) and spans[last] is None:
            last += 1
        if last > place:
            first, end = _with_neighbors(given, result, place, last, edges)
            start, stop = _room(result, first, end, edges)
            sizes = [_size(word) for word in given[first:end]]
            bounds = [start + (stop - start) * passed / sum(sizes) for passed in itertools.accumulate(sizes, initial=0)]
            result[first:end] = list(itertools.pairwise(bounds))
            guessed.update(range(first, end))
        place = last + 1
    now = 0.0
    for k, (start, stop) in enumerate(result):
        now = max(now, start)
        result[k] = (now, max(now, stop))
        now = result[k][1]
    return [Word(word, *result[k], k not in guessed) for k, word in enumerate(given)]


def _size(word: str) -> int:
    """The length of a word in letters, with one for the space."""
    return 1 + len(word)


def _room(
    spans: Sequence[tuple[float, float]], first: int, end: int, edges: tuple[float, float]
) -> tuple[float, float]:
    """From when to when the words `first` to `end` are said; those at its ends may have no span of their own."""
    start = spans[first][0] if first < len(spans) else math.nan
    if math.isnan(start):
        start = spans[first - 1][1] if first else edges[0]
    stop = spans[end - 1][1]
    if math.isnan(stop):
        stop = spans[end][0] if end < len(spans) else edges[1]
    return start, max(start, stop)


def _with_neighbors(
    given: Sequence[str], spans: Sequence[tuple[float, float]], place: int, last: int, edges: tuple[float, float]
) -> tuple[int, int]:
    """Widen a run of words without a span by words around it, until it has room to be said.

    Where Whisper misses words, their time is often that of a word beside them, which then seems to last for seconds.
    """
    first, end = place, last
    while True:
        start, stop = _room(spans, first, end, edges)
        if stop - start >= MIN_LETTER * sum(map(_size, given[first:end])):
            return first, end
        before = _slack(given, spans, first - 1) if first > max(0, place - MAX_NEIGHBORS) else -math.inf
        after = _slack(given, spans, end) if end < min(len(spans), last + MAX_NEIGHBORS) else -math.inf
        if before == after == -math.inf:
            return place, last  # nobody says these words here
        if before >= after:
            first -= 1
        else:
            end += 1


def _slack(given: Sequence[str], spans: Sequence[tuple[float, float]], place: int) -> float:
    """How many seconds a word lasts longer than it must; none for a word without a span."""
    start, stop = spans[place]
    return -math.inf if math.isnan(start) else stop - start - MIN_LETTER * _size(given[place])


def _matches(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of places that are aligned, in order."""
    found: list[tuple[int, int]] = []
    open_gaps = [(0, len(a), 0, len(b), 0)]
    while open_gaps:
        a0, a1, b0, b1, level = open_gaps.pop()
        while a0 < a1 and b0 < b1 and a[a0] == b[b0] and level:  # the ends of a run that goes on
            found.append((a0, b0))
            a0, b0 = a0 + 1, b0 + 1
        if a0 >= a1 or b0 >= b1:
            continue
        if level == len(RUNS) or (a1 - a0) * (b1 - b0) <= 400:
            if (a1 - a0) * (b1 - b0) <= MAX_CELLS:
                found += [(a0 + i, b0 + j) for i, j in _edit_path(a[a0:a1], b[b0:b1])]
            continue
        edge_a, edge_b = a0, b0
        for i, j in _anchors(a[a0:a1], b[b0:b1], RUNS[level]):
            open_gaps.append((edge_a, a0 + i, edge_b, b0 + j, level + 1))
            found.append((a0 + i, b0 + j))
            edge_a, edge_b = a0 + i + 1, b0 + j + 1
        open_gaps.append((edge_a, a1, edge_b, b1, level + 1))
    return sorted(found)


def _anchors(a: Sequence[str], b: Sequence[str], run: int) -> list[tuple[int, int]]:
    """Places of runs of words that occur once in both, the longest list of them that is in order in both."""
    runs_a = [tuple(a[i : i + run]) for i in range(len(a) - run + 1)]
    runs_b = [tuple(b[j : j + run]) for j in range(len(b) - run + 1)]
    count_a, count_b = Counter(runs_a), Counter(runs_b)
    where = {words: j for j, words in enumerate(runs_b) if count_b[words] == 1}
    pairs = [(i, where[words]) for i, words in enumerate(runs_a) if count_a[words] == 1 and words in where]
    tops: list[int] = []  # the smallest last place in b of an increasing list of each length
    ends: list[int] = []  # the pair that it ends with
    back: list[int] = []
    for k, (_, j) in enumerate(pairs):
        length = bisect.bisect_left(tops, j)
        back.append(ends[length - 1] if length else -1)
        tops[length : length + 1] = [j]
        ends[length : length + 1] = [k]
    chain, k = [], ends[-1] if ends else -1
    while k >= 0:
        chain.append(pairs[k])
        k = back[k]
    return chain[::-1]


def _cost(x: str, y: str) -> float:
    if x == y:
        return 0.0
    return SIMILAR if x[:2] == y[:2] or (len(x) > 3 and x[-3:] == y[-3:]) else SUBSTITUTION


def _edit_path(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of the cheapest alignment (Needleman and Wunsch, 1970)."""
    total = [[j * GAP for j in range(len(b) + 1)]]
    for i, x in enumerate(a):
        row = [(i + 1) * GAP]
        for j, y in enumerate(b):
            row.append(min(total[i][j] + _cost(x, y), total[i][j + 1] + GAP, row[j] + GAP))
        total.append(row)
    i, j, pairs = len(a), len(b), []
    while i and j:
        if total[i][j] == total[i - 1][j - 1] + _cost(a[i - 1], b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif total[i][j] == total[i - 1][j] + GAP:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def share_equal(aligned: Sequence[Aligned]) -> float:
    """The share of the given words that were heard as they are written, of the median recording."""
    shares = [found.num_equal / len(found.words) for found in aligned if found.words]
    return statistics.median(shares) if shares else 0.0
