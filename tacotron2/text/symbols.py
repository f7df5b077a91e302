"""The symbol table: the position of a symbol is its id. The default table has the 148 symbols of the English models.

They are in the order of the published checkpoints, whose embeddings depend on it: never reorder or insert symbols.
"""

import unicodedata

from common.errors import UserError

PAD = "_"
ARPABET_PREFIX = "@"  # keeps the ARPAbet symbol "B" apart from the letter "B"

PUNCTUATION = "-!'(),.:;? "
# Marks that a table may lack, and their ASCII forms: quotes, apostrophes, hyphens and dashes, the ellipsis.
TYPOGRAPHIC = {
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4", "'"),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
    **dict.fromkeys("\u2014\u2015", "--"),
    "\u2026": "...",
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
)  # fmt: skip

# CMUdict's symbols: a vowel with no stress mark, then unstressed (0), primary (1) and secondary stress (2).
ARPABET = tuple(sorted([vowel + stress for vowel in VOWELS for stress in ("", "0", "1", "2")] + list(CONSONANTS)))


def symbol_table(characters: str | None = None, arpabet: bool = True) -> tuple[str, ...]:
    """Return padding, then `characters` (default: the reference's), then ARPAbet, if wanted. Raises UserError for a
    duplicate.

    Decomposed letters are composed (Unicode's NFC), as `encode` does with text.
    """
    characters = PUNCTUATION + LETTERS if characters is None else unicodedata.normalize("NFC", characters)
    if twice := sorted({character for character in characters if (PAD + characters).count(character) > 1}):
        raise UserError(
            f"data.characters={characters!r}: repeated or reserved: {' '.join(twice)}; list each character once, and "
            f"leave out {PAD}, the padding"
        )
    return (PAD, *characters, *(ARPABET_PREFIX + name for name in ARPABET if arpabet))


SYMBOLS: tuple[str, ...] = symbol_table()
