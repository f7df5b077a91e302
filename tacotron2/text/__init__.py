"""Convert text to the symbol ids of the embedding, and ids back to text."""

import functools
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from common.errors import UserError, did_you_mean
from tacotron2.text import languages
from tacotron2.text.cleaners import ARPABET_CLEANERS, CLEANERS, ENGLISH_CLEANERS, LANGUAGE_CLEANERS, phonetic_form
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.phonemes import PHONEMES as PHONEME_CHARACTERS
from tacotron2.text.phonemes import remember
from tacotron2.text.symbols import ARPABET, ARPABET_PREFIX, PAD, SYMBOLS, TYPOGRAPHIC, symbol_table

__all__ = [
    "CLEANERS",
    "PHONEMES",
    "SYMBOLS",
    "Encoded",
    "Lexicon",
    "clean_text",
    "encode",
    "ids_to_text",
    "language_of",
    "left_out",
    "prepare",
    "symbol_table",
    "symbols_of",
    "text_to_ids",
    "warn_dropped",
    "word_spans",
]

Cleaners = str | Sequence[str]  # the name of one cleaner, or names to apply in turn

PHONEMES = "phonemes"  # the cleaner
SILENT = frozenset('"[]')  # marks without a sound: dropped, but not reported

# Matches "{HH AW1 S}"; or an opening brace that is never closed, with the ARPAbet after it, which cannot be read as
# text; or a stray closing brace.
_ARPABET_NAME = rf"(?:{'|'.join(ARPABET)})(?![A-Za-z0-9])"
_BRACES = re.compile(rf"\{{(?P<inside>[^{{}}]*)\}}|\{{(?:\s*+{_ARPABET_NAME})*|\}}")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, which cannot be printed


class Encoded(NamedTuple):
    """The symbol ids of a text, and the parts of the text that have no symbol.

    `dropped` lists each of these parts once, in order: characters, unmatched braces, and "@XX" for ARPAbet. Marks
    without a sound are not listed.
    """

    ids: list[int]
    dropped: list[str]


def encode(
    text: str,
    cleaners: Cleaners = "english_cleaners",
    symbols: Sequence[str] = SYMBOLS,
    lexicon: Lexicon | None = None,
    language: str = "",
) -> Encoded:
    """Clean `text` and look up its symbols. `{HH AW1 S}`, in upper or lower case, is ARPAbet and is not cleaned; with
    the cleaner `phonemes`, braces hold IPA.

    `language` is a code such as "de", for the cleaners that depend on it. With these, a letter whose accent the table
    lacks is read without it.

    The words of `lexicon` are replaced by their readings first. What the symbols cannot hold is never lost unseen: the
    cleaners transliterate the letters of other scripts, and emoji and all else without a symbol are left out and listed
    in `Encoded.dropped`. To have them read, give them a reading in the lexicon. A vowel of ARPAbet whose stress the
    table lacks gets one that it has.

    Letters may be composed or decomposed (Unicode's NFC or NFD). A typographic mark without a symbol is replaced by its
    ASCII form. Each run of whitespace becomes one space, and the ends are stripped. The result may be empty. Raises
    UserError for an unknown cleaner, or if a program or package is absent that the language needs.
    """
    table = _ids_of(tuple(symbols))
    space = table.get(" ")
    ids: list[int] = []
    dropped: dict[str, None] = {}
    for symbol in _tokenize(text, cleaners, lexicon, language):
        own = table.get(symbol)
        if own is not None and own != space:  # nearly always
            ids.append(own)
            continue
        known = _in_table(symbol, table)
        if (
            known is None
            and cleaners == "language_cleaners"
            and (letter := unicodedata.normalize("NFD", symbol)[0]) in table
        ):
            known = (letter,)
        if known is None:
            dropped[symbol] = None
            continue
        for index in map(table.__getitem__, known):
            if index != space or (ids and ids[-1] != space):
                ids.append(index)
    if ids and ids[-1] == space:
        ids.pop()
    return Encoded(ids, list(dropped))


def left_out(dropped: Iterable[str]) -> str:
    """The message about what `encode` dropped; marks that cannot be seen as in Python's strings: \\x00."""
    names = " ".join(symbol if symbol.isprintable() else ascii(symbol)[1:-1] for symbol in dropped)
    return f"left out, because the model has no symbol for them: {names}"


def text_to_ids(
    text: str,
    cleaners: Cleaners = "english_cleaners",
    symbols: Sequence[str] = SYMBOLS,
    lexicon: Lexicon | None = None,
    language: str = "",
) -> list[int]:
    """Return the ids of `encode`, with a warning for each symbol that it drops."""
    encoded = encode(text, cleaners, symbols, lexicon, language)
    warn_dropped(encoded.dropped)
    return encoded.ids


def warn_dropped(symbols: Iterable[str]) -> None:
    """A warning for each symbol that `encode` dropped; Python's default filter shows each warning once."""
    for symbol in symbols:
        kind = "ARPAbet symbol" if len(symbol) > 1 else "character"
        name = symbol.removeprefix(ARPABET_PREFIX) if len(symbol) > 1 else symbol
        warnings.warn(f"dropped the {kind} {name!r}: it is not in the symbol table", stacklevel=2)


def symbols_of(cleaners: str, language: str, characters: str | None) -> tuple[str, ...]:
    """The symbol table of a new model: with `characters`, or else with those of the cleaners and the language.

    Raises UserError for cleaners of another language, or a language whose letters are not known here.
    """
    is_english = languages.base(language) == languages.ENGLISH
    if cleaners in ENGLISH_CLEANERS and not is_english:
        raise UserError(
            f"data.cleaners={cleaners} is for English, and data.language={language}; leave out one of the two, or use "
            f"data.cleaners={' or '.join(LANGUAGE_CLEANERS)}"
        )
    if cleaners == PHONEMES:
        return symbol_table(PHONEME_CHARACTERS if characters is None else characters, arpabet=False)
    if characters is None and not is_english and cleaners != "transliteration_cleaners":
        characters = languages.characters(language)
    return symbol_table(characters)


def language_of(cleaners: str, language: str) -> str:
    """The language of texts, as a checkpoint stores it: "" if it is not known.

    data.language is "en" unless it is set, and so says nothing of texts that are not cleaned as English.
    """
    if cleaners in ENGLISH_CLEANERS:
        return languages.ENGLISH
    return language if cleaners in LANGUAGE_CLEANERS or languages.base(language) != languages.ENGLISH else ""


def clean_text(
    text: str, cleaners: Cleaners = "english_cleaners", lexicon: Lexicon | None = None, language: str = ""
) -> str:
    """Return the cleaned text, with ARPAbet in braces and without unmatched braces. Errors as in `encode`."""
    symbols = _tokenize(text, cleaners, lexicon, language)
    return " ".join(_join(symbol for symbol in symbols if symbol not in ("{", "}")).split())


def prepare(texts: Iterable[str], cleaners: Cleaners, lexicon: Lexicon | None = None, language: str = "") -> None:
    """Look at texts before `encode` does: one run of espeak-ng finds the phonemes of all, instead of one run for each.

    Without effect for other cleaners. Errors as in `encode`.
    """
    if cleaners == PHONEMES:
        outside = (part for text in texts for part, is_inside in _by_braces(text, lexicon) if not is_inside)
        remember((phonetic_form(part, language) for part in outside), language)


def ids_to_text(ids: Iterable[int], symbols: Sequence[str] = SYMBOLS) -> str:
    """Return the text for `ids`: ARPAbet in braces, no padding. Raises ValueError for an id out of range."""
    named = []
    for index in ids:
        if not 0 <= index < len(symbols):
            last = len(symbols) - 1
            raise ValueError(f"symbol id {index} is not in 0..{last}: were these ids made with another symbol table?")
        named.append(symbols[index])
    return _join(symbol for symbol in named if symbol != PAD)


def word_spans(ids: Sequence[int], symbols: Sequence[str] = SYMBOLS) -> list[tuple[int, int]]:
    """Return (first, end) of each word in `ids`, end exclusive. A word is a run of letters with their marks, digits of
    tones, apostrophes and ARPAbet."""
    inside = [_is_of_word(symbols[i]) for i in ids]
    edges = [k for k in range(len(ids) + 1) if (k > 0 and inside[k - 1]) != (k < len(ids) and inside[k])]
    return list(zip(edges[::2], edges[1::2], strict=True))


def _is_of_word(symbol: str) -> bool:
    if symbol.startswith(ARPABET_PREFIX) or symbol == "'" or symbol[:1].isalnum():
        return True
    return unicodedata.category(symbol[0])[0] == "M" if symbol else False


def _by_braces(text: str, lexicon: Lexicon | None) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a text, and whether they are within braces: then with these, which may be unmatched."""
    text = _SURROGATE.sub("\ufffd", text)
    text = unicodedata.normalize("NFC", text if lexicon is None else lexicon.apply(text))
    position = 0
    for match in _BRACES.finditer(text):
        yield text[position : match.start()], False
        yield match[0], True
        position = match.end()
    yield text[position:], False


def _tokenize(text: str, cleaners: Cleaners, lexicon: Lexicon | None, language: str) -> list[str]:
    """The symbols of the cleaned text, known or unknown: characters, "@HH" for ARPAbet, and unmatched braces."""
    names = [cleaners] if isinstance(cleaners, str) else list(cleaners)
    symbols: list[str] = []
    for part, is_inside in _by_braces(text, lexicon):
        if not is_inside:
            symbols += _cleaned_symbols(part, names, language)
        elif part[0] != "{" or part[-1] != "}":
            symbols.append(part[0])
        elif PHONEMES in names:
            symbols += part[1:-1].strip()
        else:
            symbols += _arpabet(part[1:-1])
    return symbols


def _cleaned_symbols(text: str, names: Sequence[str], language: str) -> Iterable[str]:
    """The symbols of a text without braces. Text that a cleaner puts in braces is ARPAbet."""
    cleaned = _clean(text, names, language)
    if not names or names[-1] not in ARPABET_CLEANERS:
        return cleaned
    symbols: list[str] = []
    for k, part in enumerate(re.split(r"[{}]", cleaned)):
        symbols += _arpabet(part) if k % 2 else part
    return symbols


def _arpabet(names: str) -> list[str]:
    return [ARPABET_PREFIX + name for name in names.upper().split()]


def _clean(text: str, names: Sequence[str], language: str) -> str:
    """Apply the cleaners to text outside braces. They strip its ends; a space there is put back."""
    cleaned = text
    for name in names:
        if name in LANGUAGE_CLEANERS:
            cleaned = LANGUAGE_CLEANERS[name](cleaned, language)
        elif name in CLEANERS:
            cleaned = CLEANERS[name](cleaned)
        else:
            choices = [*CLEANERS, *LANGUAGE_CLEANERS]
            raise UserError(f"data.cleaners={name!r} is unknown{did_you_mean(name, choices)}")
    return f"{' ' * text[:1].isspace()}{cleaned}{' ' * text[-1:].isspace()}"


def _join(symbols: Iterable[str]) -> str:
    """Join symbols to text. Adjacent ARPAbet symbols share a pair of braces."""
    text = "".join(f"{{{symbol[1:]}}}" if symbol[0] == ARPABET_PREFIX and symbol[1:] else symbol for symbol in symbols)
    return text.replace("}{", " ")


@functools.lru_cache(16)
def _ids_of(symbols: tuple[str, ...]) -> dict[str, int]:
    """Return symbol -> id, without the padding symbol, which no text may contain."""
    return {symbol: index for index, symbol in enumerate(symbols) if symbol != PAD}


def _in_table(symbol: str, table: Mapping[str, int]) -> Sequence[str] | None:
    """Return the symbols of `table` that stand for `symbol`, none if it has no sound, or None if it would be lost."""
    if symbol in table:
        return (symbol,)
    if len(symbol) > 1:  # ARPAbet
        vowel = symbol.rstrip("012")
        other = next((vowel + stress for stress in ("", "1", "0", "2") if vowel + stress in table), None)
        return None if other is None else (other,)
    # Cf: a soft hyphen, a BOM; a variation selector says only how the emoji before it is drawn
    if symbol in SILENT or symbol.isspace() or unicodedata.category(symbol) == "Cf" or "\ufe00" <= symbol <= "\ufe0f":
        return ()
    # A table may hold the marks of decomposed letters.
    for pieces in (unicodedata.normalize("NFD", symbol), TYPOGRAPHIC.get(symbol, "")):
        kept = [piece for piece in pieces if piece in table or piece not in SILENT]
        if pieces and all(piece in table for piece in kept):
            return kept
    return None
