"""How a voice reads a text: its pieces, and the symbol ids of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from synthesis.sentences import DEFAULT_LIMIT, Piece, Splitter
from tacotron2.text import PHONEMES, Encoded, Lexicon, encode, prepare, word_spans
from tacotron2.text.cleaners import ENGLISH_CLEANERS
from tacotron2.text.languages import base

CHUNK = 1000  # characters of a text that are read at once
SMALLER = 0.6  # limit of the parts of a piece, as a fraction of its length
SHORTEST = 20  # symbols, of this limit


@dataclass(frozen=True)
class Read:
    """A piece, and what the model reads for it: nothing if it has no word, such as "* * *"."""

    piece: Piece
    ids: list[int]
    dropped: list[str]  # parts of the piece that the model has no symbol for, each once
    speaker: int | None = None  # of the model, if it has speakers

    @property
    def name(self) -> str:
        """For messages."""
        return repr(self.piece.text[:60])


class Reader:
    """Cuts texts into pieces of at most `limit` symbols, and looks up their symbols.

    speaker: who speaks the pieces, by id; None: the model has no speakers, or none is chosen.
    """

    def __init__(
        self,
        cleaners: str,
        symbols: Sequence[str],
        limit: int | None = None,
        lexicon: Lexicon | None = None,
        language: str = "",
        speaker: int | None = None,
    ) -> None:
        """`language`: a code such as "de"; "": unknown, unless the cleaners are for English."""
        self.cleaners, self.symbols, self.lexicon, self.speaker = cleaners, symbols, lexicon, speaker
        self.limit = DEFAULT_LIMIT if limit is None else limit
        self.language = "en" if cleaners in ENGLISH_CLEANERS else language

    def speaking_as(self, speaker: int | None) -> Reader:
        """The same for another speaker."""
        return Reader(self.cleaners, self.symbols, self.limit, self.lexicon, self.language, speaker)

    def encode(self, text: str) -> Encoded:
        return encode(text, self.cleaners, self.symbols, self.lexicon, self.language)

    @property
    def alphabet(self) -> str:
        """Of the phonemes in braces, as SSML calls it."""
        return "ipa" if self.cleaners == PHONEMES else "x-arpabet"

    def prepare(self, texts: Iterable[str]) -> None:
        """Before `encode` of many texts, which is then faster."""
        prepare(texts, self.cleaners, self.lexicon, self.language)

    def length(self, text: str) -> int:
        """Number of symbols."""
        return len(self.encode(text).ids)

    def open(self) -> OpenText:
        """For a text that comes as a stream."""
        return OpenText(self, Splitter(self.length, self.limit, base(self.language)))

    def read(self, text: str | Iterable[str]) -> Iterator[Read]:
        """Read a text, whole or in chunks of any size: yield each piece as soon as no further text can change it."""
        opened = self.open()
        for chunk in chunks(text) if isinstance(text, str) else text:
            yield from opened.feed(chunk)
        yield from opened.close()

    def cut(self, read: Read) -> list[Read]:
        """`read` in smaller pieces, or itself if it is short."""
        limit = int(SMALLER * len(read.ids))
        if limit < SHORTEST:
            return [read]
        smaller = Reader(self.cleaners, self.symbols, limit, self.lexicon, self.language)
        parts = [part for part in smaller.read(read.piece.text) if part.ids]
        at = read.piece.start
        moved = [replace(part.piece, start=at + part.piece.start, end=at + part.piece.end) for part in parts]
        moved[-1] = replace(moved[-1], pause=read.piece.pause)
        dropped = [read.dropped, *([] for _ in parts[1:])]
        return [
            Read(piece, part.ids, lost, read.speaker) for piece, part, lost in zip(moved, parts, dropped, strict=True)
        ]


class OpenText:
    """A text of which more may come. If no piece has a word, the first that has a sound, such as "...", is read at the
    end."""

    def __init__(self, reader: Reader, splitter: Splitter) -> None:
        self.reader, self.splitter = reader, splitter
        self.spare: Read | None = None
        self.has_word = False

    def feed(self, chunk: str) -> Iterator[Read]:
        """The pieces that are certain after `chunk`."""
        return map(self._read, self.splitter.feed(chunk))

    def close(self) -> Iterator[Read]:
        """The last pieces."""
        yield from map(self._read, self.splitter.close())
        if self.spare and not self.has_word:
            yield self.spare

    def _read(self, piece: Piece) -> Read:
        ids, dropped = self.reader.encode(piece.text)
        has_word = bool(word_spans(ids, self.reader.symbols))
        self.has_word |= has_word
        speaker = self.reader.speaker
        self.spare = self.spare or (Read(piece, ids, [], speaker) if ids else None)
        return Read(piece, ids if has_word else [], dropped, speaker)


def chunks(text: str) -> Iterator[str]:
    """A text in parts, so that reading it takes little memory."""
    return (text[k : k + CHUNK] for k in range(0, len(text), CHUNK))
