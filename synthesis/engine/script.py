"""What a request asks to read: its text, piece by piece, as far as it has arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from synthesis.clauses import mark_at_end
from synthesis.reader import OpenText, Read, Reader, chunks
from synthesis.sentences import Pauses
from tacotron2.text import word_spans


class Passage(Protocol):
    """A stretch of text with one speed, see synthesis/ssml.py."""

    @property
    def text(self) -> str: ...

    @property
    def places(self) -> Sequence[int]:
        """len(text) + 1 places in what the user has sent: of each character, and of the end."""
        ...

    @property
    def speed(self) -> float: ...

    @property
    def pause(self) -> float | None:
        """Seconds behind it; None: as the punctuation says."""
        ...


@dataclass(frozen=True)
class Plain:
    """A text as it is."""

    text: str
    speed: float = 1.0
    pause: float | None = None

    @property
    def places(self) -> Sequence[int]:
        return range(len(self.text) + 1)


@dataclass(frozen=True)
class Line:
    """A piece and how to speak it."""

    read: Read
    speed: float
    pause: float | None = None  # seconds behind it; None: as the punctuation says
    places: Sequence[int] | None = None  # see Passage; None: as in the piece

    def seconds(self, read: Read, pauses: Pauses) -> float:
        """The pause behind a part of it, which is `read` or was cut from it."""
        is_last = read.piece.end == self.read.piece.end
        if is_last and self.pause is not None:
            return self.pause
        pauses = pauses.at(self.speed)
        if is_last and read.piece.pause == "end":  # of a passage
            return pauses.after(mark_at_end(read.piece.text))
        return pauses.after(read.piece.pause)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """A span of the passage -> one of what the user has sent."""
        return (start, end) if self.places is None else (self.places[start], self.places[end])


class Script:
    """The lines of a request. Only pieces with a word count: there is nothing to hear in "...".

    Pass passages, or none and `feed` text as it arrives, and `close` it at its end. It holds little more than the text.
    """

    def __init__(self, reader: Reader, passages: Iterable[Passage] | None = None, speed: float = 1.0) -> None:
        self.reader, self.speed = reader, speed
        self.ready: deque[Line] = deque()
        self.dropped: dict[str, None] = {}  # parts of the text without a symbol
        self.num_characters = 0  # that were fed
        self._open = reader.open() if passages is None else None
        self._lines = self._passages(passages or ())
        self.is_closed = passages is not None

    def feed(self, text: str) -> None:
        assert self._open, "only a script without passages is fed"
        self.num_characters += len(text)
        self.ready.extend(self._fed(self._open, self._open.feed(text)))

    def close(self) -> None:
        """No more text will come."""
        assert self._open, "only a script without passages is closed"
        self.ready.extend(self._fed(self._open, self._open.close()))
        self.is_closed = True

    def next(self) -> Line | None:
        """The next line; None: there is no more, or not yet, see `is_closed`."""
        return self.ready.popleft() if self.ready else next(self._lines, None)

    def _fed(self, opened: OpenText, reads: Iterable[Read]) -> Iterator[Line]:
        return (Line(read, self.speed) for read in self._audible(reads))

    def _passages(self, passages: Iterable[Passage]) -> Iterator[Line]:
        for passage in passages:
            reads = self._audible(self.reader.read(chunks(passage.text)))
            before: Read | None = None
            speed = self.speed * passage.speed
            for read in reads:
                if before:
                    yield Line(before, speed, None, passage.places)
                before = read
            if before:
                yield Line(before, speed, passage.pause, passage.places)

    def _audible(self, reads: Iterable[Read]) -> Iterator[Read]:
        for read in reads:
            self.dropped.update(dict.fromkeys(read.dropped))
            if word_spans(read.ids, self.reader.symbols):
                yield read
