"""How a voice reads a text: its pieces, and the symbol ids of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from synthesis.sentences import DEFAULT_LIMIT, Piece, Splitter, split
from tacotron2.text import Encoded, encode, word_spans
from tacotron2.text.cleaners import ENGLISH_CLEANERS


@dataclass(frozen=True)
class Reading:
    """The pieces of a text that have words, and what the model reads for each."""

    pieces: list[Piece]
    ids: list[list[int]]
    dropped: list[str]  # parts of the text that the model has no symbol for, each once


class Reader:
    """Cuts texts into pieces of at most `limit` symbols, and looks up their symbols."""

    def __init__(self, cleaners: str, symbols: Sequence[str], limit: int | None = None) -> None:
        self.cleaners, self.symbols = cleaners, symbols
        self.limit = DEFAULT_LIMIT if limit is None else limit
        self.language = "en" if cleaners in ENGLISH_CLEANERS else ""  # the names of others are not known

    def encode(self, text: str) -> Encoded:
        return encode(text, self.cleaners, self.symbols)

    def length(self, text: str) -> int:
        """Number of symbols."""
        return len(self.encode(text).ids)

    def splitter(self) -> Splitter:
        """For a text that comes as a stream."""
        return Splitter(self.length, self.limit, self.language)

    def read(self, text: str) -> Reading:
        """Read a whole text."""
        return self.read_pieces(split(text, self.length, self.limit, self.language))

    def read_pieces(self, pieces: Iterable[Piece]) -> Reading:
        """Read pieces of one text. Those without a word, such as "* * *", are left out, unless no piece has one."""
        encoded = [(piece, self.encode(piece.text)) for piece in pieces]
        dropped = dict.fromkeys(symbol for _, found in encoded for symbol in found.dropped)
        audible = [(piece, found.ids) for piece, found in encoded if found.ids]
        kept = [(piece, ids) for piece, ids in audible if word_spans(ids, self.symbols)] or audible[:1]
        return Reading([piece for piece, _ in kept], [ids for _, ids in kept], list(dropped))
