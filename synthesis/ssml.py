"""Reads SSML, the markup for speech (W3C, Speech Synthesis Markup Language 1.1): the part of it that the models can do.

All else is an error, never ignored: elements, attributes and values that the models do not have, and what makes XML
unsafe, document types, entities and processing instructions. The time is linear in the document.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_args
from xml.parsers import expat

from common.errors import UserError
from synthesis.clauses import MAX_BRACES
from synthesis.passages import Passage, Passages, span
from synthesis.sentences import Pauses
from synthesis.speed import Speed
from tacotron2.text.languages import base
from tacotron2.text.say_as import KINDS, say_as
from tacotron2.text.symbols import ARPABET

__all__ = ["Passage", "parse", "span"]

MAX_DEPTH = 50  # elements
MAX_PAUSE = 10.0  # seconds
SHOWN = 60  # characters of a wrong name or value, in messages
NAMESPACE = "http://www.w3.org/2001/10/synthesis"
ATTRIBUTES = {
    "speak": ("version", "xml:lang", "xmlns"),
    "p": (),
    "s": (),
    "break": ("time", "strength"),
    "phoneme": ("alphabet", "ph"),
    "say-as": ("interpret-as", "format"),
    "sub": ("alias",),
    "prosody": ("rate",),
}
NEEDED = {
    "phoneme": ("alphabet", "ph"),
    "say-as": ("interpret-as",),
    "sub": ("alias",),
    "prosody": ("rate",),
}
SPOKEN = ("phoneme", "say-as", "sub")  # elements whose content is not read as it stands
RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.5}
STRENGTHS: Mapping[str, Callable[[Pauses], float]] = {
    "none": lambda pauses: 0.0,
    "x-weak": lambda pauses: pauses.clause / 2,
    "weak": lambda pauses: pauses.clause,
    "medium": lambda pauses: pauses.sentence,
    "strong": lambda pauses: pauses.paragraph,
    "x-strong": lambda pauses: 2 * pauses.paragraph,
}
SPEEDS = get_args(Speed)[1]

_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(%?)")
_TIME = re.compile(r"\+?([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ms|s)")
_ATTRIBUTE = re.compile(r"[ \t\r\n]+([^ \t\r\n=]+)[ \t\r\n]*=[ \t\r\n]*(?:\"[^\"]*\"|'[^']*')")
_RUN = re.compile(r"[ \t\r\n]+|[^ \t\r\n]+")  # of whitespace, or of a word
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
# A document type can only be here. It is found before expat sees it, because expat goes on after a handler's error.
_DOCTYPE = re.compile(r"\ufeff?(?:[ \t\r\n]++|<!--.*?-->|<\?.*?\?>)*+(?=<!DOCTYPE)", re.DOTALL)
_DOCTYPE_CURE = (
    "document types and entity declarations are refused; remove <!DOCTYPE ...>, and write characters as they are"
)


def parse(
    document: str, pauses: Pauses | None = None, language: str = "en", alphabet: str = "x-arpabet"
) -> list[Passage]:
    """The passages of an SSML document; none if it has no text and no break. `pauses` are those of speed 1.

    `language` and `alphabet`, x-arpabet or ipa, are those of the voice; the language "" is unknown.

    Raises a UserError with line and column (both from 1) if the document is not well-formed XML, or asks for what the
    models do not have.
    """
    return _Parser(document, pauses or Pauses(), language, alphabet).passages()


@dataclass
class _Spoken:
    """An element that is replaced by other text, and its content so far."""

    name: str
    attributes: Mapping[str, str]
    at: int  # where its tag is
    text: list[str] = field(default_factory=list)
    start: int | None = None  # of the content without the whitespace at its ends
    end: int = 0


class _Parser:
    """Handlers of expat's events for one document."""

    def __init__(self, document: str, pauses: Pauses, language: str, alphabet: str) -> None:
        self.document, self.pauses, self.language, self.alphabet = document, pauses, language, alphabet
        self.out = Passages()
        self.open: list[str] = []  # elements
        self.rates = [1.0]
        self.spoken: _Spoken | None = None
        self.in_cdata = self.after_words = False  # after_words: of <say-as>
        self._bytes, self._place = 0, 0  # the same place, in bytes and in characters
        self._encoded = self._encode()
        self.expat = expat.ParserCreate()
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._text
        self.expat.StartCdataSectionHandler = lambda: self._cdata(True)
        self.expat.EndCdataSectionHandler = lambda: self._cdata(False)
        self.expat.StartDoctypeDeclHandler = lambda *_: self._refuse(_DOCTYPE_CURE)
        self.expat.ProcessingInstructionHandler = lambda name, _: self._refuse(
            f"processing instructions are refused; remove <?{name[:SHOWN]} ...?>"
        )

    def passages(self) -> list[Passage]:
        if found := _DOCTYPE.match(self.document):
            raise self._error(found.end(), _DOCTYPE_CURE)
        try:
            self.expat.Parse(self.document, True)
        except expat.ExpatError as error:
            place = len(self._encoded[: max(0, self.expat.ErrorByteIndex)].decode(errors="ignore"))
            raise self._error(place, f"not well-formed XML: {_cause(error.code)}") from None
        return self.out.close()

    def _encode(self) -> bytes:
        try:
            return self.document.encode()
        except UnicodeEncodeError as error:
            raise self._error(error.start, "half of a surrogate pair (\\ud800 to \\udfff); remove it") from None

    # Places and errors

    def _here(self) -> int:
        """Where the event of expat is, in characters. Events come in order, so all calls together take linear time."""
        index = self.expat.CurrentByteIndex
        self._place += len(self._encoded[self._bytes : index].decode())
        self._bytes = index
        return self._place

    def _error(self, place: int, message: str) -> UserError:
        before = self.document[:place]
        breaks = list(_LINE_BREAK.finditer(before))
        column = place - (breaks[-1].end() if breaks else 0) + 1
        return UserError(f"SSML, line {len(breaks) + 1}, column {column}: {message}")

    def _refuse(self, message: str) -> None:
        raise self._error(self._here(), message)

    def _attribute_place(self, tag: int, element: str, attribute: str) -> int:
        found = _ATTRIBUTE.match(self.document, tag + 1 + len(element))
        while found and found[1] != attribute:
            found = _ATTRIBUTE.match(self.document, found.end())
        return found.start(1) if found else tag

    @contextmanager
    def _value(self, tag: int, element: str, attribute: str) -> Iterator[None]:
        """Errors in the block are about this attribute."""
        try:
            yield
        except UserError as error:
            place = self._attribute_place(tag, element, attribute)
            raise self._error(place, f"<{element} {attribute}>: {error}") from None

    # Handlers

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self._here()
        self._check_element(at, name)
        self._check_attributes(at, name, attributes)
        self.open.append(name)
        if name in ("p", "s"):
            self._end_sentence(name)
        elif name == "break":
            self._break(at, attributes)
        elif name == "prosody":
            self._prosody(at, attributes["rate"])
        elif name in SPOKEN:
            self.spoken = _Spoken(name, attributes, at)

    def _end(self, name: str) -> None:
        self.open.pop()
        if name in ("p", "s"):
            self._end_sentence(name)
        elif name == "prosody":
            self.rates.pop()
        elif name in SPOKEN:
            assert self.spoken is not None
            spoken, self.spoken = self.spoken, None
            self._say(spoken, self._here())

    def _cdata(self, begins: bool) -> None:
        self.in_cdata = begins

    def _text(self, text: str) -> None:
        place = self._here()
        end = place + len(text)
        if text == "\n" and self.document.startswith("\r\n", place):
            end = place + 2
        elif self.document[place] == "&" and not self.in_cdata:
            end = self.document.index(";", place) + 1
        for run in _RUN.finditer(text):
            # Only a single character may be written otherwise, so its end is that of the text.
            self._run(run[0], place + run.start(), end if run.end() == len(text) else place + run.end())

    def _run(self, text: str, place: int, end: int) -> None:
        """A run of whitespace or of other characters."""
        if self.open[-1] == "break":
            if text.isspace():
                return
            raise self._error(place, f"<break> is empty, and cannot hold {text[:SHOWN]!r}; write <break/>")
        if (spoken := self.spoken) is not None:
            spoken.text.append(text)
            if text[0] not in " \t\r\n":
                spoken.start, spoken.end = place if spoken.start is None else spoken.start, end
        elif text[0] in " \t\r\n":
            self.out.space(place, end)
        else:
            if self.after_words and text[0].isalnum():
                self.out.separate(place)
            self.after_words = False
            if end - place == len(text):
                self.out.write(text, place, self.rates[-1])
            else:
                self.out.replace(text, place, end, self.rates[-1])

    # Elements

    def _check_element(self, at: int, name: str) -> None:
        if not self.open and name != "speak":
            raise self._error(at, f"the document is <{name[:SHOWN]}>; SSML is <speak>...</speak>")
        if name not in ATTRIBUTES:
            known = " ".join(f"<{element}>" for element in ATTRIBUTES)
            raise self._error(at, f"<{name[:SHOWN]}> is not supported; remove it. Supported: {known}")
        if len(self.open) >= MAX_DEPTH:
            raise self._error(at, f"<{name}> is within {len(self.open)} elements; at most {MAX_DEPTH} are supported")
        outer = self.open[-1] if self.open else ""
        if outer in (*SPOKEN, "break"):
            raise self._error(
                at, f"<{name}> cannot be in <{outer}>, which holds {'no' if outer == 'break' else 'only'} text"
            )
        if name == "speak" and self.open:
            raise self._error(at, "<speak> cannot be in another element; it is the whole document")
        if name in ("p", "s") and (inner := {"p", "s"}.intersection(self.open)) and (name == "p" or "s" in inner):
            raise self._error(at, f"<{name}> cannot be in <{'s' if 's' in inner else 'p'}>; end that first")

    def _check_attributes(self, at: int, name: str, attributes: Mapping[str, str]) -> None:
        for attribute, value in attributes.items():
            known = ATTRIBUTES[name]
            if attribute not in known and not (name == "speak" and attribute.startswith("xmlns:")):
                supported = f"supported: {', '.join(known)}" if known else f"<{name}> has none"
                message = f"<{name} {attribute[:SHOWN]}> is not supported; remove the attribute; {supported}"
                raise self._error(self._attribute_place(at, name, attribute), message)
            with self._value(at, name, attribute):
                _check_value(attribute, value, self.language, self.alphabet)
        if missing := [attribute for attribute in NEEDED.get(name, ()) if attribute not in attributes]:
            raise self._error(at, f"<{name}> needs {' and '.join(missing)}; it has {', '.join(attributes) or 'none'}")

    def _end_sentence(self, name: str) -> None:
        seconds = self.pauses.paragraph if name == "p" else self.pauses.sentence
        self.out.end_sentence(seconds / self.rates[-1])

    def _break(self, at: int, attributes: Mapping[str, str]) -> None:
        if "time" in attributes:
            with self._value(at, "break", "time"):
                seconds = _seconds(attributes["time"])
        else:
            strength = STRENGTHS[attributes.get("strength", "medium")]
            seconds = min(MAX_PAUSE, strength(self.pauses) / self.rates[-1])
        total = self.out.pause(seconds, at)
        if total > MAX_PAUSE:
            raise self._error(at, f"breaks of together {total:g} s; at most {MAX_PAUSE:g} s can be between two words")

    def _prosody(self, at: int, value: str) -> None:
        with self._value(at, "prosody", "rate"):
            rate = round(self.rates[-1] * _rate(value), 6)  # so that equal speeds are equal
            if problem := SPEEDS.problem(rate):
                within = f", {rate:g} with those around it" if self.rates[-1] != 1 else ""
                raise UserError(f"{value!r}{within}; the speed {problem}")
        self.rates.append(rate)

    def _say(self, spoken: _Spoken, here: int) -> None:
        """Write the words of an element that ends `here`, in the place of its content."""
        # Without content they are at the tag, because other text may stand where the element ends.
        start, end = (spoken.at, spoken.at) if spoken.start is None else (spoken.start, spoken.end)
        content, attributes = "".join(spoken.text), spoken.attributes
        if spoken.name == "say-as":
            try:
                words = say_as(content, attributes["interpret-as"], attributes.get("format"))
            except UserError as error:
                raise self._error(start, f"<say-as interpret-as={attributes['interpret-as']!r}>: {error}") from None
        elif spoken.name == "phoneme":
            names = attributes["ph"].split()
            words = f"{{{' '.join(names if self.alphabet == 'ipa' else map(str.upper, names))}}}"
        else:
            words = " ".join(attributes["alias"].split())
        if content[:1].isspace():  # whitespace at the ends of the content is around the words
            self.out.space(spoken.at, spoken.at)
        if self.after_words or spoken.name == "say-as":
            self.out.separate(start)
        self.out.replace(words, start, end, self.rates[-1])
        self.after_words = spoken.name == "say-as"
        if content[-1:].isspace():
            self.out.space(end, here)


def _check_value(attribute: str, value: str, language: str, alphabet: str) -> None:
    """Raise a UserError if an attribute cannot have this value, whatever is around its element."""
    if attribute == "version" and value not in ("1.0", "1.1"):
        raise UserError(f"{value[:SHOWN]!r} is unknown; use 1.0 or 1.1")
    if attribute == "xmlns" and value != NAMESPACE:
        raise UserError(f"{value[:SHOWN]!r} is not SSML; use {NAMESPACE}")
    if attribute == "xml:lang" and language and base(value) != base(language):
        raise UserError(f"{value[:SHOWN]!r} is not the language of the voice; use {base(language)}, or leave it out")
    if attribute == "strength" and value not in STRENGTHS:
        raise UserError(f"{value[:SHOWN]!r} is unknown; choose from: {', '.join(STRENGTHS)}")
    if attribute == "alphabet" and value != alphabet:
        known = "ipa" if alphabet == "ipa" else "x-arpabet: the symbols of the CMU dictionary, as HH AH0 L OW1"
        raise UserError(f"{value[:SHOWN]!r} is not supported by this voice; use {known}")
    if attribute == "interpret-as" and base(language) not in ("", "en"):
        raise UserError(
            f"say-as is read in English, and the voice speaks {base(language)}; write the words, with <sub>"
        )
    if attribute == "interpret-as" and value not in KINDS:
        raise UserError(
            f"{value[:SHOWN]!r} is not supported; choose from: {', '.join(KINDS)}; or write the words, with <sub>"
        )
    if attribute == "ph" and alphabet == "ipa":
        if not value.strip() or len(value) > MAX_BRACES or set("{}") & set(value):
            raise UserError(f"{value[:SHOWN]!r}: write 1 to {MAX_BRACES} symbols of the IPA, without braces")
    elif attribute == "ph":
        _check_phonemes(value)


def _check_phonemes(value: str) -> None:
    names = value.upper().split()
    if not names or len(value) > MAX_BRACES:
        raise UserError(f"{len(names)} symbols in {len(value)} characters; write at least one, in {MAX_BRACES} at most")
    for name in names:
        if name not in ARPABET:
            near = difflib.get_close_matches(name, ARPABET, n=4, cutoff=0.5)
            near = near or [known for known in ARPABET if not known[-1].isdigit()]
            raise UserError(f"unknown ARPAbet symbol {name[:SHOWN]!r} in {value[:SHOWN]!r}; near it: {', '.join(near)}")


def _seconds(value: str) -> float:
    match = _TIME.fullmatch(value)
    if match is None:
        raise UserError(f"{value[:SHOWN]!r} is not a time; write 500ms or 1.5s, 0 to {MAX_PAUSE:g} s")
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds > MAX_PAUSE:
        raise UserError(f"{value!r} is too long; a break has 0 to {MAX_PAUSE:g} s")
    return seconds


def _rate(value: str) -> float:
    if value in RATES:
        return RATES[value]
    match = _RATE.fullmatch(value)
    if match is None:
        raise UserError(
            f"{value[:SHOWN]!r} is not a rate; write a factor, as 120% or 1.2, or one of: {', '.join(RATES)}"
        )
    return float(match[1]) / (100 if match[2] else 1)


def _cause(code: int) -> str:
    """What expat found, and the cure of what is often wrong."""
    cures = {
        "undefined entity": "; XML has only &amp; &lt; &gt; &quot; &apos; and numbers such as &#8217;",
        "syntax error": "; an SSML document is <speak>...</speak>",
        "no element found": "; an SSML document is <speak>...</speak>, with every element closed",
        "mismatched tag": "; close elements in the reverse order that they are opened",
    }
    cause = expat.ErrorString(code) or "unknown"
    return cause + cures.get(cause, "; write & as &amp; and < as &lt;" if "invalid token" in cause else "")
