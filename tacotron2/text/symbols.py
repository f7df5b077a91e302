"""The symbol table of the English models: 148 symbols whose position is their id.

The order is that of the published checkpoints, so that their embeddings keep their meaning; never reorder or insert.
"""

PAD = "_"
ARPABET_PREFIX = "@"  # keeps the ARPAbet symbol "B" apart from the letter "B"

PUNCTUATION = "-!'(),.:;? "
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = (
    "B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH", "V", "W", "Y",
    "Z", "ZH",
)  # fmt: skip

# CMUdict's symbols: a vowel with no stress mark, then unstressed (0), primary (1) and secondary stress (2).
ARPABET = tuple(sorted([vowel + stress for vowel in VOWELS for stress in ("", "0", "1", "2")] + list(CONSONANTS)))

SYMBOLS: tuple[str, ...] = (PAD, *PUNCTUATION, *LETTERS, *(ARPABET_PREFIX + name for name in ARPABET))
SYMBOL_TO_ID: dict[str, int] = {symbol: index for index, symbol in enumerate(SYMBOLS)}
