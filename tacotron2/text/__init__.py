"""Text to the symbol ids of the embedding, and back."""

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from common.errors import UserError, did_you_mean
from tacotron2.text.cleaners import CLEANERS, PRONOUNCING
from tacotron2.text.symbols import ARPABET, ARPABET_PREFIX, PAD, SYMBOL_TO_ID, SYMBOLS, symbol_table

__all__ = [
    "CLEANERS",
    "SYMBOLS",
    "Encoded",
    "clean_text",
    "encode",
    "ids_to_text",
    "symbol_table",
    "text_to_ids",
    "word_spans",
]

Cleaners = str | Sequence[str]  # the name of one cleaner, or names to apply in turn

SILENT = frozenset('"[]')  # marks without a sound: they are dropped and not reported

# "{HH AW1 S}"; or, if the closing brace is missing, the brace and the ARPAbet after it, which cannot be read as text;
# or a stray closing brace.
_ARPABET_NAME = rf"(?:{'|'.join(ARPABET)})(?![A-Za-z0-9])"
_BRACES = re.compile(rf"\{{(?P<inside>[^{{}}]*)\}}|\{{(?:\s*+{_ARPABET_NAME})*|\}}")


class Encoded(NamedTuple):
    """A text as ids, and what of it has no symbol, each once and in order: characters, unmatched braces, "@XX" for
    ARPAbet. Marks without a sound are not listed."""

    ids: list[int]
    dropped: list[str]


def encode(text: str, cleaners: Cleaners = "english_cleaners", symbols: Sequence[str] = SYMBOLS) -> Encoded:
    """Clean `text` and look up its symbols; `{HH AW1 S}` is ARPAbet, in either case, and is not cleaned.

    Runs of whitespace become one space, and the ends have none. The result may be empty. UserError for an unknown
    cleaner.
    """
    table = _ids_of(symbols)
    space = table.get(" ")
    ids: list[int] = []
    dropped: dict[str, None] = {}
    for symbol in _tokenize(text, cleaners):
        index = table.get(symbol)
        if index is None:
            if not _silent(symbol):
                dropped[symbol] = None
        elif index != space or (ids and ids[-1] != space):
            ids.append(index)
    if ids and ids[-1] == space:
        ids.pop()
    return Encoded(ids, list(dropped))


def text_to_ids(text: str, cleaners: Cleaners = "english_cleaners", symbols: Sequence[str] = SYMBOLS) -> list[int]:
    """The ids of `encode`, with a warning for each symbol that it drops."""
    encoded = encode(text, cleaners, symbols)
    for symbol in encoded.dropped:
        _warn_dropped(symbol)
    return encoded.ids


def clean_text(text: str, cleaners: Cleaners = "english_cleaners") -> str:
    """`text` as it will be read: cleaned, ARPAbet in braces, unmatched braces removed. Errors as in `encode`."""
    return " ".join(_join(symbol for symbol in _tokenize(text, cleaners) if symbol not in ("{", "}")).split())


def ids_to_text(ids: Iterable[int], symbols: Sequence[str] = SYMBOLS) -> str:
    """The text for `ids`, with ARPAbet in braces and without padding. Raises ValueError for an id out of range."""
    named = []
    for index in ids:
        if not 0 <= index < len(symbols):
            last = len(symbols) - 1
            raise ValueError(f"symbol id {index} is not in 0..{last}: were these ids made with another symbol table?")
        named.append(symbols[index])
    return _join(symbol for symbol in named if symbol != PAD)


def word_spans(ids: Sequence[int], symbols: Sequence[str] = SYMBOLS) -> list[tuple[int, int]]:
    """(first, end) of each word in `ids`: a run of letters, apostrophes and ARPAbet."""
    inside = [symbols[i][:1].isalpha() or symbols[i] == "'" or symbols[i].startswith(ARPABET_PREFIX) for i in ids]
    edges = [k for k in range(len(ids) + 1) if (k > 0 and inside[k - 1]) != (k < len(ids) and inside[k])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _tokenize(text: str, cleaners: Cleaners) -> Iterator[str]:
    """The symbols of the cleaned text, known or unknown: characters, "@HH" for ARPAbet, and unmatched braces."""
    names = [cleaners] if isinstance(cleaners, str) else list(cleaners)
    position = 0
    for match in _BRACES.finditer(text):
        yield from _cleaned_symbols(text[position : match.start()], names)
        if match["inside"] is None:
            yield match[0][0]
        else:
            yield from _arpabet(match["inside"])
        position = match.end()
    yield from _cleaned_symbols(text[position:], names)


def _cleaned_symbols(text: str, names: Sequence[str]) -> Iterator[str]:
    """The symbols of a text without braces; what a cleaner puts in braces is ARPAbet."""
    cleaned = _clean(text, names)
    if not names or names[-1] not in PRONOUNCING:
        yield from cleaned
        return
    for k, part in enumerate(re.split(r"[{}]", cleaned)):
        yield from _arpabet(part) if k % 2 else part


def _arpabet(names: str) -> Iterator[str]:
    return (ARPABET_PREFIX + name.upper() for name in names.split())


def _clean(text: str, names: Sequence[str]) -> str:
    """Apply the cleaners to the text between braces. They strip spaces at its ends, which are put back."""
    cleaned = text
    for name in names:
        if name not in CLEANERS:
            raise UserError(f"data.cleaners={name!r} is unknown{did_you_mean(name, CLEANERS)}")
        cleaned = CLEANERS[name](cleaned)
    return f"{' ' * text[:1].isspace()}{cleaned}{' ' * text[-1:].isspace()}"


def _join(symbols: Iterable[str]) -> str:
    """Symbols to text; neighbouring ARPAbet symbols share a pair of braces."""
    text = "".join(f"{{{symbol[1:]}}}" if symbol[0] == ARPABET_PREFIX and symbol[1:] else symbol for symbol in symbols)
    return text.replace("}{", " ")


def _ids_of(symbols: Sequence[str]) -> dict[str, int]:
    """Symbol -> id, without padding, which no text may contain."""
    table = SYMBOL_TO_ID if symbols is SYMBOLS else {symbol: index for index, symbol in enumerate(symbols)}
    return {symbol: index for symbol, index in table.items() if symbol != PAD}


def _silent(symbol: str) -> bool:
    return symbol in SILENT or symbol.isspace()


def _warn_dropped(symbol: str) -> None:
    # The same message from the same line for each text: Python's default filter shows it once.
    kind = "ARPAbet symbol" if len(symbol) > 1 else "character"
    name = symbol.removeprefix(ARPABET_PREFIX) if len(symbol) > 1 else symbol
    warnings.warn(f"dropped the {kind} {name!r}: it is not in the symbol table", stacklevel=2)
