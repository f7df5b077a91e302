"""A user's lexicon: how to read words that the cleaners or the voice get wrong.

A UTF-8 file with one entry on each line, the written form and its reading:

    # names
    Nguyen win
    GIF jif
    Worcester {W UH1 S T ER0}

The two are separated by a tab, or else by the first space; a written form of several words needs the tab. A reading is
text, which the cleaners treat like any other, or ARPAbet in braces (upper or lower case, with or without stress
digits), or both. Voices that read IPA (data.cleaners=phonemes) have IPA in braces, with at least one symbol that is not
ASCII, such as the mark of stress. Lines that start with "#" are comments.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from common.data.filelist import read_lines
from common.errors import UserError, about
from tacotron2.text.pronunciation import with_s
from tacotron2.text.symbols import ARPABET

MAX_TOKENS = 40  # words and marks of a written form: bounds the time at each word of a text

_TOKEN = re.compile(r"\{[^{}]*\}|\w+|\s+|.", re.DOTALL)
_BRACES = re.compile(r"\{([^{}]*)\}")

Key = tuple[str, ...]


class Lexicon:
    """Entries that replace words of a text before the cleaners see it. It never changes, so threads may share it.

    Only whole words match. An entry in lower case matches any case; one with a capital matches as written ("Polish" is
    not "polish") or all in capitals. Of several entries that match at a place, the longest counts. A word with "'s" is
    read as the word and the ending, and so is a plural in "s" if the entry has a capital.
    """

    def __init__(self, entries: Mapping[str, str] | None = None, source: str = "lexicon") -> None:
        """`entries`: written form -> reading. Raises UserError, which names `source`, for an invalid entry."""
        self._any_case: dict[Key, str] = {}
        self._as_written: dict[Key, str] = {}
        self._capitals: dict[Key, str] = {}  # the entries of _as_written all in capitals, for headlines
        self._lengths: dict[str, list[int]] = {}  # first token in lower case -> numbers of tokens
        for written, reading in (entries or {}).items():
            with about(source):
                self._add(written, reading)

    @classmethod
    def load(cls, *paths: str | Path) -> Lexicon:
        """Read lexicon files; a later file's entry replaces an earlier file's. Raises UserError that names the file,
        the line and the cure."""
        lexicon = cls()
        for path in paths:
            lines = dict[Key, int]()
            for number, line in read_lines(path, "lexicon"):
                if line.startswith("#"):
                    continue
                with about(f"lexicon {path}:{number}"):
                    written, reading = _columns(line)
                    key = lexicon._add(written, reading)
                    if key in lines:
                        raise UserError(f"{written!r} is also on line {lines[key]}; remove one of the two")
                    lines[key] = number
        return lexicon

    def __len__(self) -> int:
        return len(self._any_case) + len(self._as_written)

    def apply(self, text: str) -> str:
        """Return `text` with the readings in place of the words. Text in braces is ARPAbet, and stays as it is."""
        tokens = _TOKEN.findall(unicodedata.normalize("NFC", text))
        keys = list(map(_key, tokens))
        read: list[str] = []
        place = 0
        while place < len(tokens):
            found = self._match(keys, place)
            length, reading = found or (1, tokens[place])
            read.append(reading)
            place += length
        return "".join(read)

    def _add(self, written: str, reading: str) -> Key:
        key = tuple(map(_key, _TOKEN.findall(unicodedata.normalize("NFC", written.strip()))))
        if not 0 < len(key) <= MAX_TOKENS:
            raise UserError(f"{written[:60]!r}: an entry has 1 to {MAX_TOKENS} words and marks, this one {len(key)}")
        if "{" in written or "}" in written:
            raise UserError(f"{written!r}: braces are for the ARPAbet of a reading, and cannot be in the written form")
        reading = _checked(unicodedata.normalize("NFC", reading.strip()))
        if written == written.lower():
            self._any_case[key] = reading
        else:
            self._as_written[key] = reading
            self._capitals[tuple(token.upper() for token in key)] = reading
        lengths = self._lengths.setdefault(key[0].lower(), [])
        if len(key) not in lengths:
            lengths.append(len(key))
        return key

    def _match(self, keys: Sequence[str], place: int) -> tuple[int, str] | None:
        """Return the number of tokens from `place` that the longest matching entry covers, and their reading."""
        first = keys[place].lower()
        if _is_word(keys, place) and _is_word(keys, place - 2) and keys[place - 1] == "'":
            return None  # the "t" of "don't"
        lengths = {*self._lengths.get(first, ()), *self._lengths.get(first.removesuffix("s"), ())}
        for length in sorted(lengths, reverse=True):
            end = place + length
            ending = ""
            if _is_word(keys, end - 1) and keys[end : end + 1] == ["'"] and _is_word(keys, end + 1):
                if keys[end + 1].lower() != "s":
                    continue  # the "can" of "can't"
                ending = "'s"
            reading = self._reading(tuple(keys[place:end]), ending)
            if reading is not None:
                return length + 2 * bool(ending), reading
        return None

    def _reading(self, key: Key, ending: str) -> str | None:
        for readings, name in (
            (self._as_written, key),
            (self._capitals, key),
            (self._any_case, tuple(token.lower() for token in key)),
        ):
            if name in readings:
                return _with_ending(readings[name], ending)
        singular = (*key[:-1], key[-1].removesuffix("s"))
        if not ending and singular != key and singular in self._as_written:
            return _with_ending(self._as_written[singular], "s")
        return None


def _key(token: str) -> str:
    """Return the form in which tokens are compared: any whitespace is a space, any apostrophe an ASCII one."""
    if token.isspace():
        return " "
    return "'" if token in "\u2019\u02bc" else token


def _is_word(keys: Sequence[str], place: int) -> bool:
    return 0 <= place < len(keys) and (keys[place][0].isalnum() or keys[place][0] == "_")


def _columns(line: str) -> tuple[str, str]:
    """Split a line at its first tab, or else at its first space."""
    written, _, reading = line.partition("\t") if "\t" in line else line.partition(" ")
    if not written.strip() or not reading.strip():
        raise UserError(f"{line[:60]!r} has no reading; write the word, a tab, and how to read it")
    return written, reading


def _checked(reading: str) -> str:
    """Return the reading with its ARPAbet in capitals. Raises UserError for an unknown symbol or a brace alone."""
    if not reading:
        raise UserError("an entry has no reading")
    if set("{}") & set(_BRACES.sub("", reading)):
        raise UserError(f"{reading[:60]!r} has a brace without its partner; write ARPAbet as {{HH AH0 L OW1}}")
    names = reading.upper().split()
    if any(name[-1] in "012" for name in names) and set(names) <= set(ARPABET):
        raise UserError(f"{reading[:60]!r} is ARPAbet; put it in braces: {{{' '.join(names)}}}")
    for inside in _BRACES.findall(reading):
        for name in inside.upper().split() if inside.isascii() else ():
            if name not in ARPABET:
                near = difflib.get_close_matches(name, ARPABET, n=4, cutoff=0.5)
                near = near or [known for known in ARPABET if not known[-1].isdigit()]
                raise UserError(f"unknown ARPAbet symbol {name!r} in {reading[:60]!r}; near it: {', '.join(near)}")
    return _BRACES.sub(
        lambda match: f"{{{' '.join((match[1].upper() if match[1].isascii() else match[1]).split())}}}", reading
    )


def _with_ending(reading: str, ending: str) -> str:
    """Add "'s" or "s" to a reading, as letters or as the sound that English gives it there."""
    if not ending:
        return reading
    if reading.endswith("}"):
        start, _, symbols = reading[:-1].rpartition("{")
        if not symbols:
            return reading
        sound = with_s(symbols)
        return f"{start}{{{sound if re.search('[012]', symbols) else sound.replace('IH0', 'IH')}}}"
    return reading + ("es" if ending == "s" and re.search("(?:s|x|z|ch|sh)$", reading) else ending)
