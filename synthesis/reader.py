"""How a voice reads a text: its pieces, and the symbol ids of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from synthesis.sentences import DEFAULT_LIMIT, Piece, Splitter
from tacotron2.text import Encoded, Lexicon, encode, word_spans
from tacotron2.text.cleaners import ENGLISH_CLEANERS

CHUNK = 1000  # characters of a text that are read at once
SMALLER = 0.6  # limit of the parts of a piece, as a fraction of its length
SHORTEST = 20  # symbols, of this limit


@dataclass(frozen=True)
class Read:
    """A piece, and what the model reads for it: nothing if it has no word, such as "* * *"."""

    piece: Piece
    ids: list[int]
    dropped: list[str]  # parts of the piece that the model has no symbol for, each once

    @property
    def name(self) -> str:
        """For messages."""
        return repr(self.piece.text[:60])


class Reader:
    """Cuts texts into pieces of at most `limit` symbols, and looks up their symbols."""

    def __init__(
        self, cleaners: str, symbols: Sequence[str], limit: int | None = None, lexicon: Lexicon | None = None
    ) -> None:
        self.cleaners, self.symbols, self.lexicon = cleaners, symbols, lexicon
        self.limit = DEFAULT_LIMIT if limit is None else limit
        self.language = "en" if cleaners in ENGLISH_CLEANERS else ""  # the names of others are not known

    def encode(self, text: str) -> Encoded:
        return encode(text, self.cleaners, self.symbols, self.lexicon)

    def length(self, text: str) -> int:
        """Number of symbols."""
        return len(self.encode(text).ids)

    def splitter(self) -> Splitter:
        """For a text that comes as a stream."""
        return Splitter(self.length, self.limit, self.language)

    def read(self, text: str | Iterable[str]) -> Iterator[Read]:
        """Read a text, whole or in chunks of any size: yield each piece as soon as no further text can change it.

        If no piece has a word, the first that has a sound, such as "...", is read at the end.
        """
        splitter, spare, found = self.splitter(), None, False
        parts = (text[k : k + CHUNK] for k in range(0, len(text), CHUNK)) if isinstance(text, str) else text
        for part in _and_none(parts):
            for piece in splitter.close() if part is None else splitter.feed(part):
                ids, dropped = self.encode(piece.text)
                has_word = bool(word_spans(ids, self.symbols))
                found |= has_word
                spare = spare or (Read(piece, ids, []) if ids else None)
                yield Read(piece, ids if has_word else [], dropped)
        if spare and not found:
            yield spare

    def cut(self, read: Read) -> list[Read]:
        """`read` in smaller pieces, or itself if it is short."""
        limit = int(SMALLER * len(read.ids))
        if limit < SHORTEST:
            return [read]
        smaller = Reader(self.cleaners, self.symbols, limit, self.lexicon)
        parts = [part for part in smaller.read(read.piece.text) if part.ids]
        at = read.piece.start
        moved = [replace(part.piece, start=at + part.piece.start, end=at + part.piece.end) for part in parts]
        moved[-1] = replace(moved[-1], pause=read.piece.pause)
        dropped = [read.dropped, *([] for _ in parts[1:])]
        return [Read(piece, part.ids, lost) for piece, part, lost in zip(moved, parts, dropped, strict=True)]


def _and_none(parts: Iterable[str]) -> Iterator[str | None]:
    yield from parts
    yield None
