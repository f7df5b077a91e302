"""Read a text as a given kind of thing: "1905" as a cardinal, an ordinal, digits or a date, "NASA" letter by letter.

For texts that say how they are read, such as SSML's <say-as>. Without that, the cleaners decide by the context.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from common.errors import UserError, did_you_mean
from tacotron2.text.codes import read_group
from tacotron2.text.dates import MONTH
from tacotron2.text.money import CODES, COUNTRIES, SIGNS
from tacotron2.text.numbers import expand_numbers
from tacotron2.text.patterns import INTEGER
from tacotron2.text.spelling import (
    DIGIT_WORDS,
    MAX_CARDINAL_DIGITS,
    cardinal,
    decimal,
    digit_by_digit,
    fraction,
    in_pairs,
    minutes,
    ordinal,
)
from tacotron2.text.times import MONTHS as SHORT_MONTHS
from tacotron2.text.web import MARKS

MAX_LENGTH = 1000  # characters

MONTHS = MONTH[3:-1].split("|")
DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)  # at most, of each month
MONTH_NUMBERS = {name.lower(): k + 1 for k, name in enumerate(MONTHS)}
MONTH_NUMBERS |= {short.lower(): MONTH_NUMBERS[name.lower()] for short, name in SHORT_MONTHS.items()}
SIGN_WORDS = {"": "", "+": "plus ", "-": "minus ", "\u2212": "minus "}

_NUMBER = re.compile(rf"(?P<sign>[+\u2212-]?)(?P<whole>{INTEGER})?(?:\.(?P<parts>[0-9]+))?")
_FRACTION = re.compile(r"(?P<sign>[+\u2212-]?)(?:(?P<whole>[0-9]{1,15})[ -])?(?P<up>[0-9]{1,15})/(?P<down>[0-9]{1,15})")
_ORDINAL = re.compile(rf"({INTEGER})(?:st|nd|rd|th)?", re.IGNORECASE)
_DIGITS = re.compile(r"[0-9 ()./-]*[0-9][0-9 ()./-]*")
_TELEPHONE = re.compile(
    rf"(?P<plus>\+?)(?P<number>{_DIGITS.pattern}?)(?:,? ?(?:x|ext\.?|extension) ?(?P<inner>[0-9]+))?"
)
_TIME = re.compile(
    r"(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-9]{2}))?(?::(?P<second>[0-9]{2}))?(?P<half> ?[ap]\.?m\.?)?", re.IGNORECASE
)
_PART = r"(?:[0-9]{1,4}(?:st|nd|rd|th)?|[A-Za-z]{3,9}\.?)"  # of a date
_DATE = re.compile(rf"{_PART}(?:(?:[./-]|,? ){_PART}){{0,2}}")
_AMOUNT = rf"{INTEGER}(?:\.[0-9]+)?"
_MONEY = re.compile(
    rf"-?(?:(?:{'|'.join(COUNTRIES)})?{SIGNS} ?{_AMOUNT}(?: (?:thousand|million|billion|trillion)|[kKmMbB]n?)?"
    rf"|(?:{'|'.join(CODES)}) ?{_AMOUNT}|{_AMOUNT} ?(?:{'|'.join(CODES)}|¢))"
)


def read_characters(text: str) -> str:
    """Read each character by its name: "A-1" -> "A dash one". Between words is a comma."""
    return ", ".join(" ".join(map(_name, _letters(word))) for word in text.split())


def _letters(word: str) -> list[str]:
    """The characters, each with the marks that Unicode adds to it."""
    return re.findall(r".[\u0300-\u036f]*", unicodedata.normalize("NFC", word), re.DOTALL)


def _name(mark: str) -> str:
    if mark.isdecimal():
        return DIGIT_WORDS[int(mark)]
    if mark.isalpha() or len(mark) > 1 or unicodedata.category(mark) in ("Cf", "Mn"):
        return mark.upper() if mark.isascii() else mark
    return MARKS.get(mark) or unicodedata.name(mark, mark).lower()


def read_number(text: str) -> str:
    """Read "-1,234.5" as "minus one thousand two hundred thirty-four point five"; and fractions."""
    if match := _FRACTION.fullmatch(text):
        return read_fraction(match[0])
    match = _NUMBER.fullmatch(text)
    if match is None or not (match["whole"] or match["parts"]):
        raise UserError(f"{text!r} is not a number such as 1,234 or -2.5 or 3/4")
    whole = _stripped(match["whole"]) if match["whole"] else ""
    words = decimal(whole, match["parts"]) if match["parts"] else cardinal(whole)
    return SIGN_WORDS[match["sign"]] + words


def read_fraction(text: str) -> str:
    """Read "1 3/4" as "one and three quarters"."""
    match = _FRACTION.fullmatch(text)
    if match is None or int(match["down"]) < 2:
        raise UserError(f"{text!r} is not a fraction such as 3/4 or 1 1/2")
    part = fraction(_stripped(match["up"]), _stripped(match["down"]))
    whole = f"{cardinal(_stripped(match['whole']))} and " if match["whole"] else ""
    return f"{SIGN_WORDS[match['sign']]}{whole}{part}"


def read_ordinal(text: str) -> str:
    match = _ORDINAL.fullmatch(text)
    if match is None or len(_stripped(match[1])) > MAX_CARDINAL_DIGITS:
        raise UserError(f"{text!r} is not a whole number of at most {MAX_CARDINAL_DIGITS} digits, such as 22 or 22nd")
    return ordinal(_stripped(match[1]))


def read_digits(text: str) -> str:
    """Read digit by digit, with a comma between groups: "12-345" -> "one two, three four five"."""
    if not _DIGITS.fullmatch(text):
        raise UserError(f"{text!r} has more than digits, spaces, and -./(); say it as characters")
    return ", ".join(map(digit_by_digit, re.findall("[0-9]+", text)))


def read_telephone(text: str) -> str:
    """Read a telephone number in the groups that it is written in: "+1 800 555" -> "plus one, eight hundred, ..."."""
    match = _TELEPHONE.fullmatch(text)
    if match is None:
        raise UserError(f"{text!r} is not a telephone number such as +1 (555) 010-9999 or 555-0100 ext. 12")
    words = ", ".join(map(read_group, re.findall("[0-9]+", match["number"])))
    inner = f", extension {digit_by_digit(match['inner'])}" if match["inner"] else ""
    return f"{'plus ' * bool(match['plus'])}{words}{inner}"


def read_time(text: str, form: str = "") -> str:
    """Read a time of day: "14:30", "2:30 p.m.". `form`: hms12 or hms24."""
    match = _TIME.fullmatch(text)
    if match is None or not (match["minute"] or match["half"]):
        raise UserError(f"{text!r} is not a time of day such as 14:30, 14:30:15 or 2:30 pm")
    hour, most = int(match["hour"]), 12 if match["half"] or form == "hms12" else 24
    if hour > most or (match["half"] and not hour) or any(int(match[part] or 0) > 59 for part in ("minute", "second")):
        raise UserError(f"{text!r} is not a time of day: hours are up to {most}, minutes and seconds up to 59")
    if match["half"] and form == "hms24":
        raise UserError(f"{text!r} has a.m. or p.m., which format='hms24' has not; use format='hms12'")
    return expand_numbers(text.lower())


def read_date(text: str, form: str = "") -> str:
    """Read a date: "2024-05-01" -> "May first, twenty twenty-four". `form`: the order of month, day and year."""
    if not _DATE.fullmatch(text):
        raise UserError(f"{text!r} is not a date such as 2024-05-01 or May 1, 2024")
    parts = [re.sub("(?<=[0-9])[a-z]+$", "", part) for part in re.split(r"[./ ,-]+", text.rstrip("."))]
    form = form or _order(text, parts)
    if len(parts) != len(form):
        raise UserError(f"{text!r} has {len(parts)} parts, and format={form!r} has {len(form)}")
    said = dict(zip(form, parts, strict=True))
    month = _month(text, said["m"]) if "m" in said else 0
    if "d" in said and not (said["d"].isdecimal() and 1 <= int(said["d"]) <= (DAYS[month - 1] if month else 31)):
        raise UserError(f"{text!r}: there is no day {said['d']} in {MONTHS[month - 1] if month else 'a month'}")
    if "y" in said and not said["y"].isdecimal():
        raise UserError(f"{text!r}: the year is {said['y']!r}; write its digits")
    day, year = ordinal(_stripped(said["d"])) if "d" in said else "", _year(said["y"]) if "y" in said else ""
    name = MONTHS[month - 1] if month else ""
    if day and month:
        return (f"the {day} of {name}" if form[0] == "d" else f"{name} {day}") + f", {year}" * bool(year)
    return " ".join(filter(None, (name, day, year)))


def _order(text: str, parts: list[str]) -> str:
    """The order of a date that needs no format."""
    if parts[0].isalpha():
        return "my" if len(parts) == 2 and len(parts[1]) > 2 else "mdy"[: len(parts)]
    if len(parts) > 1 and parts[1].isalpha():
        return "dmy"[: len(parts)]
    if len(parts[0]) == 4:
        return "ymd"[: len(parts)]
    raise UserError(f"which part of {text!r} is the month? Add a format: {', '.join(FORMATS['date'])}")


def _month(text: str, part: str) -> int:
    number = int(part) if part.isdecimal() else MONTH_NUMBERS.get(part.lower(), 0)
    if not 1 <= number <= 12:
        raise UserError(f"{text!r}: there is no month {part}")
    return number


def _year(digits: str) -> str:
    return minutes(digits) if len(digits) == 2 else in_pairs(digits)


def read_currency(text: str) -> str:
    """Read a sum of money: "$42.50" -> "forty-two dollars, fifty cents"."""
    if not _MONEY.fullmatch(text):
        raise UserError(f"{text!r} is not a sum of money such as $42.50, 42.50 USD or \u20ac3 million")
    return expand_numbers(text)


def _stripped(digits: str) -> str:
    """Without commas and leading zeros."""
    return digits.replace(",", "").lstrip("0") or "0"


KINDS: Mapping[str, Callable[[str], str]] = {
    "characters": read_characters,
    "spell-out": read_characters,
    "cardinal": read_number,
    "number": read_number,
    "ordinal": read_ordinal,
    "fraction": read_fraction,
    "digits": read_digits,
    "telephone": read_telephone,
    "date": read_date,
    "time": read_time,
    "currency": read_currency,
}
FORMATS: Mapping[str, tuple[str, ...]] = {
    "date": ("mdy", "dmy", "ymd", "md", "dm", "my", "ym", "d", "m", "y"),
    "time": ("hms12", "hms24"),
}


def say_as(text: str, kind: str, form: str | None = None) -> str:
    """The words for `text` read as one of KINDS, in one of FORMATS if the kind has any; "" if it is blank.

    Raises UserError if the kind or the format is unknown, or if the text is not of the kind.
    """
    if kind not in KINDS:
        raise UserError(f"{kind[:20]!r} is unknown{did_you_mean(kind[:20], KINDS)}")
    formats = FORMATS.get(kind, ())
    if form is not None and form not in formats:
        known = f"the formats {', '.join(formats)}" if formats else "no format"
        raise UserError(f"format={form[:20]!r}: {kind} has {known}")
    if len(text) > MAX_LENGTH:
        raise UserError(f"{text[:20]!r}... has {len(text)} characters; at most {MAX_LENGTH} can be read as {kind}")
    text = " ".join(text.split())
    if not text:
        return ""
    if kind == "date":
        return read_date(text, form or "")
    return read_time(text, form or "") if kind == "time" else KINDS[kind](text)
