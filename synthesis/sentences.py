"""Cuts a text into pieces that the model can read: sentences, and clauses of those that are too long.

A text may come as a stream. A piece is given as soon as no text behind it can change it, so chunks do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import sentencex

from common.errors import UserError
from common.schema import NonNegative, Options
from synthesis.clauses import CLOSERS, ENDS, HIDDEN, MAX_BRACES, TERMINATORS, Mark, first_clause, last_gap, mark_at_end

DEFAULT_LIMIT = 160  # symbols, for checkpoints that do not know theirs: 99 % of LJSpeech's texts have at most 163
CUT_OFF = (  # a warning about a file, with the option that limits the steps
    "{} ends at the step limit, because the decoder did not stop by itself. Listen to it: if it is cut off, raise {}; "
    "if it babbles, as a voice in training does, train longer"
)
LOOK_AHEAD = 30  # characters behind the whitespace: sentencex looks at 30 bytes
LOOK_BACK = 300  # characters of the sentence: for its quotes and the abbreviation at its end
MAX_GAP = 100  # a longer run of whitespace ends a sentence
SHORT_LINE = 40  # a line of fewer characters was not broken because it was full
# Times the limit, in characters: a longer sentence is cut before its end is known, if it has ENOUGH times the limit in
# symbols, or at the latest at LAST_WINDOW.
FIRST_WINDOW, LAST_WINDOW, ENOUGH = 3, 12, 1.5

BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
LINE_BREAK = re.compile(rf"\r\n|[{BREAKS}]")
GAP = re.compile(  # whitespace that may end a sentence: after a mark, with a line break, or long; or none, after \u3002
    rf"(?<!\s)(?:(?<=[{re.escape(TERMINATORS + CLOSERS)}{HIDDEN}])\s++"
    rf"|(?:(?![{BREAKS}])\s)*+[{BREAKS}]\s*+|\s{{{MAX_GAP}}}\s*+)"
    r"|(?<=[\u3002\uff01\uff1f\uff61])(?=[^\s\u3002\uff01\uff1f\uff61\u201d\u2019\u300d\u300f)\]])"
)
SPACE = re.compile(r"\s*+")
OPEN_BRACES = re.compile(rf"\{{[^{{}}]{{0,{MAX_BRACES}}}+$")
OPENERS = "\"'([{\u201c\u2018\u00ab*_"
INVISIBLE = re.compile(rf"[{HIDDEN}\x00-\x08\x0e-\x1b\x7f]")
SURROGATE = re.compile("[\ud800-\udfff]")
MARKER = r"(?:\d{1,3}[.)]+|\(?[0-9A-Za-z]{1,3}\))"  # of an item: 1. 1) 1.) (1) a)
BEGINNING = re.compile(rf"^(?:{MARKER}\s+)?[(\[]?")
LONE_MARKER = re.compile(rf"(?:{MARKER}|[A-Za-z]\.|[ivxIVX]{{1,5}}\.)$")
ITEM = re.compile(rf"(?:[-*+\u2022\u2023\u25e6\u25aa\u00b7\u2013]|{MARKER})\s+\S")
HEADING = re.compile(rf"#{{1,6}}\s|[-=_*~#]{{3,}}[ \t]*(?:[{BREAKS}]|$)")


@dataclass(frozen=True)
class Piece:
    """A part of a text: text == original[start:end], without whitespace at its ends."""

    text: str
    start: int  # characters
    end: int
    pause: Mark  # what is between this piece and the next; "none": cut without a mark, "end": there is no next


@dataclass(frozen=True)
class Pauses(Options):
    """Silence between two pieces, in seconds, in addition to what the model leaves at the ends of a piece.

    `lead` and `trail` are before the first piece and after the last.

    With the 0.1 s that the bundled voice leaves at each end, the sums are those of readers: LJSpeech's pauses for 0.3 s
    at a comma, 0.4 s at a semicolon or colon, and 0.5 s after a sentence (medians of clips with one mark inside).
    """

    sentence: NonNegative = 0.3
    paragraph: NonNegative = 0.7
    clause: NonNegative = 0.15
    dash: NonNegative = 0.15
    none: NonNegative = 0.0
    lead: NonNegative = 0.0
    trail: NonNegative = 0.0

    def at(self, speed: float) -> Pauses:
        """The pauses of speech that is `speed` times as fast. Those around it stay."""
        between = {name: value / speed for name, value in vars(self).items() if name not in ("lead", "trail")}
        return replace(self, **between)

    def after(self, mark: Mark) -> float:
        """Seconds."""
        return 0.0 if mark == "end" else float(getattr(self, mark))


class Splitter:
    """Cuts a stream of text into pieces of at most `limit` symbols; `length` counts the symbols of a text.

    Pieces are in order, do not overlap, and cover all but whitespace. Time is linear in the text. Between two calls a
    splitter holds at most about 12 times `limit` characters. `language` is a code such as "en".
    """

    def __init__(self, length: Callable[[str], int], limit: int, language: str = "en") -> None:
        if limit < 1:
            raise UserError(f"limit={limit}: a piece needs at least 1 symbol")
        self.length, self.limit, self.language = length, limit, language
        self._text, self._offset = "", 0  # what is not yet cut, after a little that is; where this begins
        self._at = 0  # in _text: where the next piece begins
        self._scanned = 0  # in _text: before this no sentence ends
        self._window = FIRST_WINDOW * limit
        self._last: Piece | None = None  # its pause is not yet known
        self._breaks = 1  # line breaks between the last piece and this one; a text begins with a line

    def feed(self, chunk: str) -> list[Piece]:
        """The pieces that are certain after `chunk`."""
        self._text += chunk
        pieces = list(self._cut(final=False))
        done = max(0, self._at - SHORT_LINE)
        self._text, self._offset = self._text[done:], self._offset + done
        self._at, self._scanned = self._at - done, max(0, self._scanned - done)
        return pieces

    def close(self) -> list[Piece]:
        """The last pieces. Nothing can be fed after this."""
        pieces = list(self._cut(final=True))
        return pieces if self._last is None else [*pieces, replace(self._last, pause="end")]

    def _cut(self, final: bool) -> Iterator[Piece]:
        while self._skip_gap(final):
            if self._last is not None:
                yield replace(self._last, pause="paragraph") if self._breaks > 1 else self._last
                self._last = None
            found = self._end(final)
            if found is None:
                return
            end, mark = found
            self._last = Piece(self._text[self._at : end], self._offset + self._at, self._offset + end, mark)
            self._at, self._breaks, self._window = end, 0, FIRST_WINDOW * self.limit

    def _skip_gap(self, final: bool) -> bool:
        """Go to where the next piece begins; return whether the text goes that far."""
        match = SPACE.match(self._text, self._at)
        assert match is not None
        end = match.end()
        if end == len(self._text) and match[0].endswith("\r") and not final:
            end -= 1  # a line feed may follow
        self._breaks += len(LINE_BREAK.findall(self._text[self._at : end]))
        self._at = end
        self._scanned = max(self._scanned, end + 1)  # a piece has at least one character
        return match.end() < len(self._text)

    def _end(self, final: bool) -> tuple[int, Mark] | None:
        """Where the next piece ends in `_text`, and its mark; None if that depends on text that has not come yet."""
        text, at = self._text, self._at
        while True:
            full = at + self._window
            while (gap := GAP.search(text, self._scanned, full + MAX_GAP)) and gap.start() < full:
                start, end = gap.span()
                if not final and end - start < MAX_GAP and len(text) < end + LOOK_AHEAD:
                    self._scanned = start
                    return None
                if mark := self._boundary(start, end):
                    return self._shortened(start, mark)
                self._scanned = max(end, start + 1)
            if final and len(text) <= full:
                return self._shortened(len(text.rstrip()), "end")
            behind = text[full : full + MAX_GAP]
            if not final and len(behind) < MAX_GAP and not behind.strip():  # a line may end here
                self._scanned = max(self._scanned, len(text.rstrip()))
                return None
            self._scanned = max(self._scanned, full)
            num_symbols = self.length(text[at:full])
            if num_symbols <= self.limit and self._window >= LAST_WINDOW * self.limit:  # hardly anything can be read
                return at + last_gap(text[at:full]), "none"
            if num_symbols > ENOUGH * self.limit or self._window >= LAST_WINDOW * self.limit:
                end, mark = first_clause(text[at:full], num_symbols, self.length, self.limit, self.language)
                return at + end, mark
            self._window *= 2

    def _shortened(self, end: int, mark: Mark) -> tuple[int, Mark]:
        """The sentence up to `end` if the model can read it, else its first clause."""
        sentence = self._text[self._at : end]
        num_symbols = self.length(sentence)
        if num_symbols > self.limit:
            cut, mark = first_clause(sentence, num_symbols, self.length, self.limit, self.language)
            end = self._at + cut
        return end, mark

    def _boundary(self, start: int, end: int) -> Mark | None:
        """The mark of the sentence that ends before the whitespace [start, end) of `_text`; None if it goes on."""
        text, left = self._text, self._text[self._at : start]
        breaks = len(LINE_BREAK.findall(text[start:end]))
        if breaks > 1:
            return "paragraph"
        if end - start >= MAX_GAP:
            return mark_at_end(left)
        if OPEN_BRACES.search(left[-MAX_BRACES - 1 :]):
            return None
        right = text[end : end + LOOK_AHEAD]
        if breaks and self._line_ends(start, right):
            return "sentence"
        if self._breaks and LONE_MARKER.match(left):
            return None
        return "sentence" if sentence_ends(left, text[start:end][:1] + right, self.language) else None

    def _line_ends(self, start: int, following: str) -> bool:
        """Does the line break at `start` end an item, a heading, or a line of an address or a poem?

        Others, in text with lines of a fixed length, are no more than spaces.
        """
        before = self._text[max(0, start - SHORT_LINE) : start]
        line = LINE_BREAK.split(before)[-1]
        whole = len(line) < len(before) or self._offset + start < SHORT_LINE
        if HEADING.match(following) or (whole and HEADING.match(line.strip())):
            return True
        ended = mark_at_end(line)
        if ITEM.match(following) and (whole or ended != "none" or self._begins_item()):
            return True
        first = following.lstrip(OPENERS)[:1]
        return whole and ended == "none" and (first.isupper() or first.isdigit())

    def _begins_item(self) -> bool:
        return self._breaks > 0 and bool(ITEM.match(self._text, self._at))


def sentence_ends(left: str, right: str, language: str) -> bool:
    """Does a sentence end with `left`? `right` is the text behind it, the whitespace as one character."""
    ending = ENDS.search(left[-LOOK_BACK:])
    if ending is None:
        return False
    # An item, and a sentence in brackets, would be one sentence to sentencex whatever comes next.
    left = BEGINNING.sub("", left[-LOOK_BACK:])
    head = _visible(left)
    first = len(head) - len(_visible(ending[0]).lstrip(TERMINATORS))  # sentencex may end it before a closing quote
    last = len(head) + right[:1].isspace()
    found = sentencex.get_sentence_boundaries(language, head + _visible(right))
    return any(first <= boundary["end_index"] <= last for boundary in found)


def _visible(text: str) -> str:
    """`text` as one line without control characters, bidirectional marks, and halves of surrogate pairs."""
    return SURROGATE.sub("?", INVISIBLE.sub("", re.sub(r"\s", " ", text)))


def split(text: str, length: Callable[[str], int], limit: int, language: str = "en") -> list[Piece]:
    """The pieces of a whole text, see Splitter."""
    splitter = Splitter(length, limit, language)
    return [*splitter.feed(text), *splitter.close()]
