"""When each word of a text is heard: from the attention to seconds, and from what the model reads to what is written.

Shapes: T mel frames, L symbols.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.config import AudioConfig
from synthesis.reader import Read, Reader
from tacotron2.text import word_spans

WRITTEN = re.compile(r"(?:\{[^{}]*\}|\S)+")  # ARPAbet in braces is one word
# A word that is likely to be read as it is written: no digit, no sign, and capitals only at the start of parts.
PLAIN = re.compile(r"\W*[^\W\d_][^\W\d_A-Z]*(?:['\u2019-][^\W\d_][^\W\d_A-Z]*)*\W*")
LEAST = 1e-4  # of the attention: a symbol is never impossible
SILENCE = 5.0  # a frame this far below the loudest is silent, in nepers: 43 dB
# What it is worth that a written word is read as a given word: alone it is read so; it is not, but its context may
# change that, a plain word less likely; and that a word with a sound is not read at all.
SAME, OTHER, OTHER_PLAIN, UNREAD = 1.0, 0.0, -0.25, -1.0
MARK = 0.1  # in addition to OTHER, for a sign that has no sound alone: the "-" that is read as "minus"


@dataclass(frozen=True)
class Word:
    """A written word of a text, text[span[0]:span[1]] without whitespace, and when it is heard."""

    text: str
    start: float  # seconds
    end: float
    span: tuple[int, int]  # characters


class Owned(NamedTuple):
    """A written word of a piece and the words that are read for it; several written words may share one."""

    start: int  # characters of the piece
    end: int
    first: int  # of the words that are read
    last: int  # exclusive
    share: tuple[float, float] = (0.0, 1.0)  # of their time


def monotonic_path(alignment: np.ndarray) -> np.ndarray:
    """The symbol that is read in each frame: alignment (T, L) -> (T).

    The Viterbi path of most attention that begins with the first symbol and never goes back or skips one. It need not
    reach the last symbol, so a reading that stops early has no frames for the rest.
    """
    log_attention = np.log(np.asarray(alignment, dtype=np.float64) + LEAST)
    num_frames, num_symbols = log_attention.shape
    best = np.full(num_symbols, -np.inf)
    best[0] = log_attention[0, 0]
    advanced = np.zeros((num_frames, num_symbols), dtype=bool)
    for t in range(1, num_frames):
        advanced[t, 1:] = best[:-1] > best[1:]
        best[1:] = np.maximum(best[1:], best[:-1])
        best += log_attention[t]
    path = np.empty(num_frames, dtype=np.int64)
    path[-1] = best.argmax()
    for t in range(num_frames - 1, 0, -1):
        path[t - 1] = path[t] - advanced[t, path[t]]
    return path


def word_frames(
    alignment: Tensor,
    mel: Tensor,
    spans: Sequence[tuple[int, int]],
    path_of: Callable[[np.ndarray], np.ndarray] = monotonic_path,
) -> list[tuple[int, int] | None]:
    """The first and the last frame, exclusive, of each word that is read; None for one that is not.

    alignment (T, L), log-mel (n_mels, T), spans: symbols of the words. A word lasts from its first symbol to that of
    the next: the attention leaves a word's last symbol before its sound ends. Silence before the first word and at the
    ends of words is left out.
    """
    path = path_of(alignment.numpy())
    level = torch.logsumexp(2 * mel, 0).numpy() / 2
    silent = level < level.max() - SILENCE
    edges = [int(np.searchsorted(path, first)) for first, _ in spans] + [len(path)]
    frames: list[tuple[int, int] | None] = []
    for k, (first, end) in enumerate(spans):
        start, stop = edges[k], edges[k + 1]
        while k == 0 and start < stop - 1 and silent[start]:
            start += 1
        least = max(int(np.searchsorted(path, end)), start + 1)
        while stop > least and silent[stop - 1]:
            stop -= 1
        frames.append((start, stop) if first <= path[-1] else None)
    return frames


def owners(reader: Reader, text: str, ids: Sequence[int]) -> list[Owned]:
    """For each written word of a piece that has a sound, the words that are read for it: a range of word_spans(ids).

    Each written word is read alone too, and the words of both readings are aligned in order. A word's reading may
    depend on its neighbors ("$5 million"), and several written words may become one by an entry of the lexicon.
    """
    read = _words(reader, ids)
    written = [match.span() for match in WRITTEN.finditer(text)]
    alone, dropped = [], []
    reader.prepare(text[start:end] for start, end in written)
    for start, end in written:
        encoded = reader.encode(text[start:end])
        alone.append(_words(reader, encoded.ids))
        dropped.append(bool(encoded.dropped) and not alone[-1])
    plain = [bool(PLAIN.fullmatch(text[start:end])) for start, end in written]
    counts = _assign(read, alone, plain, dropped)
    ranges, at = [], 0
    for count in counts:
        ranges.append((at, at + count))
        at += count
    return list(_shared(written, ranges, [sum(map(len, words)) for words in alone]))


def _words(reader: Reader, ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[first:end]) for first, end in word_spans(ids, reader.symbols)]


def _assign(
    read: Sequence[tuple[int, ...]],
    alone: Sequence[Sequence[tuple[int, ...]]],
    plain: Sequence[bool],
    dropped: Sequence[bool],
) -> list[int]:
    """The number of words that are read for each written word, with the highest total worth."""
    num = len(read)
    best = np.full(num + 1, -np.inf)  # by the number of words that are read for the written words so far
    best[0] = 0.0
    took: list[np.ndarray] = []
    for words, is_plain, is_dropped in zip(alone, plain, dropped, strict=True):
        other = -np.inf if is_dropped else OTHER_PLAIN if is_plain else OTHER + MARK * (not words)
        worth = [SAME if word in words else other for word in read]
        skipped = best + (UNREAD if words else 0.0)
        taking, since = np.full(num + 1, -np.inf), np.zeros(num + 1, dtype=np.int64)
        for j in range(1, num + 1):
            longer = taking[j - 1] > best[j - 1]
            taking[j] = worth[j - 1] + (taking[j - 1] if longer else best[j - 1])
            since[j] = since[j - 1] + 1 if longer else 1
        took.append(np.where(taking > skipped, since, 0))
        best = np.maximum(taking, skipped)
    counts, left = [], num
    for since in reversed(took):
        counts.append(int(since[left]))
        left -= counts[-1]
    return counts[::-1]


def _shared(
    written: Sequence[tuple[int, int]], ranges: Sequence[tuple[int, int]], lengths: Sequence[int]
) -> Iterator[Owned]:
    """The written words with a sound; one for which nothing is read shares what is read for the one before it, or
    behind it, by the numbers of symbols."""
    groups: list[list[int]] = []  # of written words that share the words of one of them
    for k, (first, last) in enumerate(ranges):
        if not lengths[k] and first == last:
            continue
        if first < last and not (groups and all(ranges[i][0] == ranges[i][1] for i in groups[-1])):
            groups.append([])
        if not groups:
            groups.append([])
        groups[-1].append(k)
    for group in groups:
        owned = [ranges[k] for k in group if ranges[k][0] < ranges[k][1]]
        total, at = sum(max(lengths[k], 1) for k in group), 0
        for k in group if owned else ():
            share = at / total, (at + max(lengths[k], 1)) / total
            at += max(lengths[k], 1)
            yield Owned(*written[k], *owned[0], share)


def moved(words: Iterable[Word], seconds: float) -> list[Word]:
    """The words of audio that starts `seconds` later."""
    return [replace(word, start=word.start + seconds, end=word.end + seconds) for word in words]


def piece_words(
    reader: Reader, read: Read, alignment: Tensor, mel: Tensor, audio: AudioConfig, offset: float = 0.0
) -> list[Word]:
    """The words of one piece that were heard; `offset` is where its audio starts, in seconds.

    alignment (T, L) and mel (n_mels, T) are those that the audio was made from. Spans are those of the whole text.
    Words that the model has no symbols for are left out, and so are those that a truncated reading did not reach. The
    time is linear in the piece's frames times its symbols, which are bounded.
    """
    frames = word_frames(alignment, mel, word_spans(read.ids, reader.symbols))
    seconds, words = audio.hop_length / audio.sample_rate, []
    for owned in owners(reader, read.piece.text, read.ids):
        heard = [place for place in frames[owned.first : owned.last] if place]
        if heard:
            start, length = heard[0][0], heard[-1][1] - heard[0][0]
            low, high = (offset + (start + length * share) * seconds for share in owned.share)
            span = read.piece.start + owned.start, read.piece.start + owned.end
            words.append(Word(read.piece.text[owned.start : owned.end], low, high, span))
    return words
