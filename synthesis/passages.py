"""Stretches of a document that are synthesized in turn: what is read, where it stands, its speed, the pause behind.

A document is written from its start to its end with `Passages`; a place is a number of characters of the document.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from synthesis.clauses import BRACKETS, HIDDEN, TERMINATORS
from tacotron2.text.symbols import PUNCTUATION, TYPOGRAPHIC

# A text of these and whitespace has no sound, and is not worth a passage.
MARKS = frozenset(PUNCTUATION + TERMINATORS + BRACKETS + HIDDEN + '[("' + "".join(TYPOGRAPHIC))
# What belongs to the word before, whatever its speed: the ending "'s", and marks.
TAIL = re.compile(rf"(?:['\u2019][a-z]{{1,2}}\b)?[{re.escape(TERMINATORS + BRACKETS)},;:\u2010-\u2015{HIDDEN}-]*")


@dataclass(frozen=True)
class Passage:
    """A stretch of text that is synthesized with one speed."""

    text: str  # what the reader reads; phonemes in braces
    places: Sequence[int]  # len(text) + 1: where each character stands in the document, and where the passage ends
    speed: float = 1.0  # relative
    pause: float | None = None  # seconds of silence behind it; None: as the punctuation says
    # Where a character ends, if not where the next begins: before a tag. Of a character in `text` -> in the document.
    ends: Mapping[int, int] = field(default_factory=dict, compare=False, repr=False)


def span(passage: Passage, start: int, end: int) -> tuple[int, int]:
    """Where passage.text[start:end] stands in the document. Text that replaces other text stands where that stood.

    Raises ValueError if the two are not in order within the text.
    """
    if not 0 <= start <= end <= len(passage.text):
        raise ValueError(f"characters {start} to {end} are not in a passage of {len(passage.text)}")
    first = passage.places[start]
    if start == end:
        return first, first
    last = bisect_right(passage.places, passage.places[end - 1], end, len(passage.text)) - 1  # of those at one place
    return first, passage.ends.get(last, passage.places[last + 1])


@dataclass
class Draft:
    """A passage while it is written."""

    speed: float
    end: int  # in the document
    parts: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    has_word: bool = False
    ending: float | None = None  # pause of the sentence or paragraph that ends with it, in seconds
    silence: float | None = None  # sum of the breaks behind it, which count instead

    @property
    def is_open(self) -> bool:
        """May text follow in the same sentence?"""
        return self.ending is None and self.silence is None

    def append(self, text: str, places: Sequence[int], end: int) -> None:
        if self.places and places[0] > self.end:
            self.ends[len(self.places) - 1] = self.end
        self.parts.append(text)
        self.places.extend(places)
        self.end = end
        self.has_word = self.has_word or any(not (mark in MARKS or mark.isspace()) for mark in text)

    def extend(self, other: Draft) -> None:
        """Append all of `other`, with its pause."""
        offset = len(self.places)
        self.append("".join(other.parts), other.places, other.end)
        self.ends.update((offset + k, end) for k, end in other.ends.items())
        self.ending, self.silence = other.ending, other.silence

    def passage(self) -> Passage:
        """Without whitespace at its end."""
        text, places, end = "".join(self.parts), self.places, self.end
        if text.endswith(" "):
            text, places = text[:-1], places[:-1]
            end = self.ends.pop(len(text) - 1, self.places[-1])
        pause = self.ending if self.silence is None else self.silence
        return Passage(text, (*places, end), self.speed, pause, self.ends)


class Passages:
    """Writes passages. Text of one speed without a pause in it is one passage, so that sentences are read whole.

    Text without a word never is a passage of its own beside others: it joins its neighbor, or is left out if there is a
    pause on both sides.
    """

    def __init__(self) -> None:
        self._done: list[Draft] = []
        self._draft = Draft(1.0, 0)

    def space(self, place: int, end: int) -> None:
        """Whitespace of the document. Each run of it is one space."""
        if self._draft.parts and self._draft.parts[-1] != " ":
            self._draft.append(" ", (place,), end)
        elif self._draft.parts:
            self._draft.end = end

    def separate(self, place: int) -> None:
        """A space if a word is before, so that what follows is another."""
        if self._draft.parts and self._draft.parts[-1][-1].isalnum():
            self._draft.append(" ", (place,), place)

    def write(self, text: str, place: int, speed: float) -> None:
        """Text without whitespace, as it is in the document."""
        tail = TAIL.match(text) if self._draft.parts and self._draft.parts[-1] != " " else None
        if speed != self._draft.speed and tail and tail[0]:
            self._draft.append(tail[0], range(place, place + tail.end()), place + tail.end())
            text, place = text[tail.end() :], place + tail.end()
        if text:
            self._change_speed(speed, place)
            self._draft.append(text, range(place, place + len(text)), place + len(text))

    def replace(self, text: str, place: int, end: int, speed: float) -> None:
        """Text instead of document[place:end]: all its characters are there."""
        if text:
            self._change_speed(speed, place)
            self._draft.append(text, tuple(repeat(place, len(text))), end)

    def end_sentence(self, seconds: float) -> None:
        """Of several that end at one place, the longest pause counts."""
        if (last := self._cut()) is not None:
            last.ending = max(seconds, last.ending or 0.0)

    def pause(self, seconds: float, place: int) -> float:
        """Silence before the next text. Return the silence there, with that of pauses just before."""
        last = self._cut()
        if last is None:
            last = Draft(1.0, place)
            self._done.append(last)
        last.silence = seconds + (last.silence or 0.0)
        return last.silence

    def close(self) -> list[Passage]:
        """All passages. Behind the last no sentence follows, so only breaks make a pause."""
        self._cut()
        if any(draft.has_word for draft in self._done):
            for draft in self._done:
                if not draft.has_word:
                    draft.parts, draft.places, draft.ends = [], [], {}
            self._done = [draft for draft in self._done if draft.has_word or draft.silence is not None]
        if self._done:
            self._done[-1].ending = None
        return [draft.passage() for draft in self._done]

    def _change_speed(self, speed: float, place: int) -> None:
        if speed != self._draft.speed and self._draft.parts:
            self._finish_draft()
        if not self._draft.parts:
            self._draft = Draft(speed, place)

    def _cut(self) -> Draft | None:
        """End the draft; return the last passage, which ends here, or None if there is none."""
        self._finish_draft()
        if len(self._done) > 1 and not self._done[-1].has_word:
            marks = self._done.pop()
            if self._done[-1].is_open:
                self._done[-1].extend(marks)
        return self._done[-1] if self._done else None

    def _finish_draft(self) -> None:
        """Add the draft to the passages, or to the last of them, if the two can be one."""
        draft, self._draft = self._draft, Draft(1.0, self._draft.end)
        if not draft.parts:
            return
        last = self._done[-1] if self._done else None
        if last and last.is_open and not last.has_word:  # marks before the draft
            last.speed = draft.speed
            last.extend(draft)
            draft = self._done.pop()
            last = self._done[-1] if self._done else None
        if last and last.is_open and last.speed == draft.speed:
            last.extend(draft)
        else:
            self._done.append(draft)
