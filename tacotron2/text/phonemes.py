"""Text as phonemes: IPA of espeak-ng between the marks that make pauses and melody.

PHONEMES is the same for all languages, so that a voice may start from that of another language.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator

from tacotron2.text.espeak import phonemes_of

MAX_CACHED = 20_000  # phrases, of each a line
MAX_PHRASE = 200  # characters, which have at most 800 bytes
KEPT = "-!(),.:;?¿¡"  # marks that are symbols
MARKS_OF_SCRIPTS = str.maketrans(
    {script: f"{ascii_mark} " for script, ascii_mark in zip("。，、？！；：．،؛؟।॥۔։", ".,,?!;:.,;?...:", strict=True)}
)
# Letters, modifiers and diacritics of the IPA as espeak-ng has them, and the digits of its tones.
LETTERS = (
    "abcdefghijklmnopqrstuvwxyz"
    "æçðøħŋœɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢǀǁǂǃβθχᵻⱱʦʧʣʤ"
    "ʰʱʲʷˠˤˀⁿˡᵝᵊˈˌːˑ˞ʼ"
)
DIACRITICS = (  # after the letter that they belong to
    "\u0303\u0308\u030a\u030b\u0301\u0304\u0300\u030f\u030c\u0302\u0306\u0318\u0319\u031a\u031c\u031d\u031e\u031f"
    "\u0320\u0324\u0325\u0329\u032a\u032c\u032f\u0330\u0334\u0339\u033a\u033b\u033c\u033d\u0361"
)
TONES = "˥˦˧˨˩↗↘0123456789"
PHONEMES = KEPT + " " + LETTERS + DIACRITICS + TONES

# Marks that end a phrase where they begin or end a word; "3.14", "-5" and "l'eau" stay.
_EDGE = r"[\"'`\u2018\u2019\u201a\u201b\u2039\u203a\[\]{}<>*_~|.,;:!?()-]"
_MARKS = re.compile(
    rf"(?<!\S)(?:(?!-[0-9]){_EDGE})++|{_EDGE}{{1,20}}+(?!\S)|\.{{2,}}|--+|(?<![0-9])\u2013|\u2013(?![0-9])"
    r"|[\u00bf\u00a1\u2014\u2015\u2026()\[\]{}\u201c\u201d\u201e\u201f\u00ab\u00bb]+"
)
_PAUSES = frozenset(KEPT + "\u2013\u2014\u2015\u2026")
_IPA_OF_ASCII = str.maketrans({"?": "ʔ", ":": "ː", "g": "ɡ"})  # that espeak-ng leaves in some languages
_NOT_SPOKEN = re.compile(r"[!-/<-@\[-`{-~]")


def to_phonemes(text: str, language: str) -> str:
    """The phonemes of `text`, with its punctuation and spaces. Errors as in `phonemes_of`.

    Quotes are left out. A symbol of espeak-ng that is not in PHONEMES stays, for `encode` to report.
    """
    parts = list(_parts(text.translate(MARKS_OF_SCRIPTS)))
    read = iter(_CACHE.get([part for part, is_phrase in parts if is_phrase], language))
    return "".join(next(read) if is_phrase else part for part, is_phrase in parts)


def remember(texts: Iterable[str], language: str) -> None:
    """Find the phonemes of all phrases of `texts` in one run of espeak-ng, for `to_phonemes`."""
    translated = (text.translate(MARKS_OF_SCRIPTS) for text in texts)
    _CACHE.get([part for text in translated for part, is_phrase in _parts(text) if is_phrase], language)


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Cut a text into phrases (True), and into the spaces and marks between them (False)."""
    position = 0
    for match in _MARKS.finditer(text):
        yield from _phrases(text[position : match.start()])
        yield "".join(mark for mark in match[0] if mark in _PAUSES), False
        position = match.end()
    yield from _phrases(text[position:])


def _phrases(text: str) -> Iterator[tuple[str, bool]]:
    """A text without marks in phrases of at most MAX_PHRASE characters."""
    words = " ".join(text.split())
    if text[:1].isspace():
        yield " ", False
    while words:
        end = words.rfind(" ", 1, MAX_PHRASE) if len(words) > MAX_PHRASE else len(words)
        end = MAX_PHRASE if end < 0 else end
        yield words[:end], True
        if words[end : end + 1] == " ":
            yield " ", False
        words = words[end:].lstrip()
    if text.strip() and text[-1:].isspace():
        yield " ", False


class _Cache:
    """The phonemes of the latest phrases. Threads may share it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._found: OrderedDict[tuple[str, str], str] = OrderedDict()  # by language and phrase
        self._lock = threading.Lock()

    def get(self, phrases: list[str], language: str) -> list[str]:
        """The phonemes of `phrases`; one run of espeak-ng finds those that are new."""
        with self._lock:
            found = {phrase: self._found[language, phrase] for phrase in phrases if (language, phrase) in self._found}
        if new := [phrase for phrase in dict.fromkeys(phrases) if phrase not in found]:
            found.update(zip(new, map(_symbols, phonemes_of(new, language)), strict=True))
        with self._lock:
            for phrase in phrases:
                self._found[language, phrase] = found[phrase]
                self._found.move_to_end((language, phrase))
            while len(self._found) > self.size:
                self._found.popitem(last=False)
        return [found[phrase] for phrase in phrases]


def _symbols(phonemes: str) -> str:
    """Without marks of ASCII that would be taken for punctuation."""
    return " ".join(_NOT_SPOKEN.sub("", phonemes.translate(_IPA_OF_ASCII)).split())


_CACHE = _Cache(MAX_CACHED)
