"""What a request asks to read: its text, piece by piece, as far as it has arrived."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from common.errors import UserError, about
from common.schema import check
from synthesis.clauses import mark_at_end
from synthesis.passages import Passage, span
from synthesis.reader import Read, Reader, chunks
from synthesis.sentences import Pauses
from synthesis.speed import Speed
from synthesis.ssml import parse
from tacotron2.text import word_spans


class NothingToSayError(UserError):
    """A text has no word."""


def plain(text: str) -> Passage:
    """A text as it is."""
    return Passage(text, range(len(text) + 1))


def marked_up(document: str, pauses: Pauses, speed: float, reader: Reader) -> list[Passage]:
    """An SSML document for the voice of `reader`. `pauses` are those of speed 1. Raises UserError."""
    passages = parse(document, pauses.at(speed), reader.language, reader.alphabet)
    for passage in passages:
        with about("the speed of the request times that of <prosody>"):
            check(speed * passage.speed, Speed, "rate")
    return passages


@dataclass(frozen=True)
class Line:
    """A piece and how to speak it."""

    read: Read
    speed: float
    pause: float | None = None  # seconds behind it; None: as the punctuation says
    lead: float = 0.0  # seconds before it, in addition
    passage: Passage | None = None  # None: of a text that is fed

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
        return (start, end) if self.passage is None else span(self.passage, start, end)


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

    def feed(self, text: str, is_complete: bool = False) -> None:
        """More text. `is_complete`: it is read to its end now, and what follows begins anew."""
        assert self._open, "only a script without passages is fed"
        self.num_characters += len(text)
        self.ready.extend(self._fed(self._open.feed(text)))
        if is_complete:
            self.ready.extend(self._fed(self._open.close()))
            self._open = self.reader.open()

    def close(self) -> None:
        """No more text will come."""
        assert self._open, "only a script without passages is closed"
        self.ready.extend(self._fed(self._open.close()))
        self.is_closed = True

    def next(self) -> Line | None:
        """The next line; None: there is no more, or not yet, see `is_closed`."""
        return self.ready.popleft() if self.ready else next(self._lines, None)

    def _fed(self, reads: Iterable[Read]) -> Iterator[Line]:
        return (Line(read, self.speed) for read in self._audible(reads))

    def _passages(self, passages: Iterable[Passage]) -> Iterator[Line]:
        lead = 0.0
        for passage in passages:
            before: Line | None = None
            speed = self.speed * passage.speed
            for read in self._audible(self.reader.read(chunks(passage.text))):
                if before:
                    yield before
                before, lead = Line(read, speed, None, lead, passage), 0.0
            if before:
                yield replace(before, pause=passage.pause)
            else:
                lead += passage.pause or 0.0

    def _audible(self, reads: Iterable[Read]) -> Iterator[Read]:
        for read in reads:
            self.dropped.update(dict.fromkeys(read.dropped))
            if word_spans(read.ids, self.reader.symbols):
                yield read
