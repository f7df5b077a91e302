"""Convert digits to English words without context: each function is one way to read a number aloud.

Numbers are given as strings of ASCII digits, because nobody reads "007" or a number of 400 digits as an integer.
"""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import inflect

MAX_CARDINAL_DIGITS = 15  # up to hundreds of trillions; a longer number is read digit by digit

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_importing = threading.Lock()


@cache
def _engine() -> inflect.engine:
    """inflect lets typeguard check its arguments. The preparation of these checks takes two seconds of its import, and
    is left out: what is asked here has the right types."""
    import typeguard

    with _importing:
        typechecked = typeguard.typechecked
        typeguard.typechecked = lambda function: function  # type: ignore[assignment] # which has more uses
        try:
            import inflect
        finally:
            typeguard.typechecked = typechecked
    return inflect.engine()


def digit_by_digit(digits: str) -> str:
    """Read "2915" as "two nine one five". Other characters are skipped."""
    return " ".join(DIGIT_WORDS[int(digit)] for digit in digits if digit.isdecimal())


@lru_cache(maxsize=4096)  # texts repeat the small numbers
def cardinal(digits: str) -> str:
    """Read "2,345" as "two thousand three hundred forty-five"; digit by digit if too long or with leading zeros."""
    digits = digits.replace(",", "")
    if len(digits) > MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0"):
        return digit_by_digit(digits)
    words = _engine().number_to_words(digits, andword="")
    assert isinstance(words, str)
    return words.replace(",", "")  # inflect's "two thousand, three hundred" would be read with a pause


def count(digits: str) -> str:
    """As `cardinal`, but count four-digit multiples of 100 in hundreds: "1400" -> "fourteen hundred".

    Multiples of 1000 remain cardinals: "2000" -> "two thousand".
    """
    return in_pairs(digits) if len(digits) == 4 and digits.endswith("00") else cardinal(digits)


def ordinal(digits: str) -> str:
    """Read "22" as "twenty-second"."""
    return str(_engine().ordinal(cardinal(digits)))


def in_pairs(digits: str) -> str:
    """Read as year or house number: "1842" -> "eighteen forty-two", "605" -> "six oh five"; "2003" is a cardinal."""
    if len(digits) not in (3, 4) or digits[0] == "0" or digits[-3:] == "000" or digits[-3:-1] == "00":
        return cardinal(digits)
    high, low = digits[:-2], digits[-2:]
    if low == "00":
        return f"{cardinal(high)} hundred"
    return f"{cardinal(high)} {minutes(low)}"


def minutes(digits: str) -> str:
    """Read the last two digits of a clock time or a year: "05" -> "oh five", "30" -> "thirty"."""
    return f"oh {cardinal(digits[1])}" if digits[0] == "0" else cardinal(digits)


def decimal(whole: str, fraction: str) -> str:
    """Read the two sides of a decimal point: "6", "50" -> "six point five zero"; "", "25" -> "point two five"."""
    return f"{cardinal(whole) if whole else ''} point {digit_by_digit(fraction)}".lstrip()


def plural(words: str) -> str:
    """Make the last word plural: "nineteen sixty" -> "nineteen sixties", "hundred" -> "hundreds"."""
    if words.endswith("y"):
        return words[:-1] + "ies"
    return words + ("es" if words.endswith("x") else "s")


def fraction(numerator: str, denominator: str) -> str:
    """Read a fraction: "1", "2" -> "one half"; "3", "4" -> "three quarters"; "1", "16" -> "one sixteenth"."""
    part = {"2": "half", "4": "quarter"}.get(denominator) or ordinal(denominator)
    if numerator != "1":
        part = "halves" if part == "half" else plural(part)
    return f"{cardinal(numerator)} {part}"
