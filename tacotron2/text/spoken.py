"""Write the numbers, signs and abbreviations of a language besides English in words, by its rules in languages.py.

The words of numbers come from the package num2words (LGPL), which is optional: the extra [languages].
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from typing import Any

from common.errors import UserError
from tacotron2.text.languages import LANGUAGES, SYMBOLIC_UNITS, Rules, base
from tacotron2.text.patterns import Match

MAX_DIGITS = 15  # a longer number is read digit by digit, and so is one with a leading zero
SPACES = "\u00a0\u202f"  # between the digits of a number
_WHOLE = rf"(?:[0-9]{{1,3}}(?:[.{SPACES}][0-9]{{3}})+|[0-9]+)(?![0-9])"
_WHOLE_SPACED = rf"(?:[0-9]{{1,3}}(?:[. {SPACES}][0-9]{{3}})+|[0-9]+)(?![0-9])"
YEARS = range(1100, 2000)


def spoken(text: str, code: str) -> str:
    """`text` with its numbers in words, and by the rules of its language, if it has some here, all signs and
    abbreviations. Digits stay in a language that num2words does not have. Raises UserError if a number needs num2words,
    which is absent."""
    language = LANGUAGES.get(base(code))
    if language is None or language.rules is None:
        return re.sub(_WHOLE, lambda match: _cardinal(match[0], code) or match[0], text)
    return _Speaker(code, language.rules).read(text)


@functools.cache
def _num2words() -> Callable[..., str]:
    if importlib.util.find_spec("num2words") is None:
        raise UserError(
            "numbers of languages besides English need the package num2words; run in the repository: pip install -e "
            "'.[languages]', or write them in words"
        )
    from num2words import num2words

    found: Callable[..., str] = num2words
    return found


@functools.cache
def _name(code: str) -> str | None:
    """What num2words calls a language: "pt-br" -> "pt_BR"; None if it does not have it."""
    _num2words()
    from num2words import CONVERTER_CLASSES

    names = {name.lower(): name for name in CONVERTER_CLASSES}
    wanted = code.replace("-", "_").lower()
    return names.get(wanted) or names.get({"nb": "no", "nn": "no"}.get(base(code), base(code)))


def _words(number: int, code: str, **options: Any) -> str | None:
    name = _name(code)
    try:
        return None if name is None else _num2words()(number, lang=name, **options)
    except NotImplementedError:  # of ordinals
        return None


def _cardinal(written: str, code: str, in_century: bool = False) -> str | None:
    """The words of a number without decimals, which may have marks between thousands."""
    digits = re.sub("[^0-9]", "", written)
    if len(digits) > MAX_DIGITS or (digits[0] == "0" and len(digits) > 1):
        words = [_words(int(digit), code) for digit in digits]
        return None if None in words else " ".join(filter(None, words))
    if in_century and written == digits and int(digits) in YEARS:
        return _words(int(digits), code, to="year")
    return _words(int(digits), code)


class _Speaker:
    """Reads by the rules of one language, which num2words has."""

    def __init__(self, code: str, rules: Rules) -> None:
        self.code, self.rules = code, rules
        whole = _WHOLE_SPACED if rules.spaced_thousands else _WHOLE
        self.number = rf"{whole}(?:,[0-9]+)?"
        self.currency = "|".join(map(re.escape, rules.currencies))
        self.signs = "".join(sign for sign in (*rules.signs, *rules.currencies) if len(sign) == 1)
        self.units = dict(zip(SYMBOLIC_UNITS, rules.units, strict=True))

    def read(self, text: str) -> str:
        text = _abbreviations(base(self.code)).sub(self._abbreviation, text)
        if re.search("[0-9]", text):
            text = self.numbers(text)
        return re.sub(rf"[{re.escape(self.signs)}]", self._sign, text)

    def numbers(self, text: str) -> str:
        """From the longest forms to the shortest."""
        text = re.sub(r"(?<!\S)[-\u2212](?=[0-9])", f"{self.rules.minus} ", text)
        text = re.sub(r"(?<![\w.,/-])([0-9]{1,2})[./-]([0-9]{1,2})[./-]([0-9]{4})(?![\w/-])", self._date, text)
        for pattern, ending in self.rules.ordinals:
            text = re.sub(pattern, functools.partial(self._ordinal, ending=ending), text)
        between = " ?h ?|:" if self.rules.hour == "heures" else ":"
        text = re.sub(
            rf"(?<![\w:.,])([0-9]{{1,2}})(?:{between})([0-9]{{2}})(?![\w:]|[.,][0-9])( Uhr| uur)?", self._time, text
        )
        one = rf"(?<![\w.,])(?:(?P<before>{self.currency}) ?)?(?P<number>{self.number})"
        text = re.sub(rf"{one}(?: ?(?P<after>{self.currency})(?!\w))?", self._money, text)
        counted = "|".join(map(re.escape, SYMBOLIC_UNITS))
        text = re.sub(rf"(?<![\w.,])({self.number}) ?({counted})(?!\w)", self._measure, text)
        text = re.sub(r"(?<=[0-9])[-\u2013](?=[0-9])", f" {self.rules.until} ", text)
        # What is left of a date or a version: 2.5.1
        text = re.sub(r"(?<=[0-9])\.(?=(?![0-9]{3}(?![0-9]))[0-9])", f" {self.rules.point} ", text)
        return re.sub(self.number, self._number, text)

    def _abbreviation(self, match: Match) -> str:
        known = self.rules.abbreviations
        return known[match[0]] if match[0] in known else known[match[0][0].lower() + match[0][1:]]

    def _sign(self, match: Match) -> str:
        words = self.rules.signs.get(match[0]) or self.rules.currencies[match[0]][1]
        before, after = _beside(match)
        return f"{' ' * (not before.isspace())}{words}{' ' * after.isalnum()}"

    def _number(self, match: Match) -> str:
        """Its words, apart from the letters beside them: "A4" -> "A vier". German "1990er" is one word."""
        before, after = _beside(match)
        joined = self.rules.decade and re.match(rf"{self.rules.decade}\b", match.string[match.end() : match.end() + 3])
        plural = re.compile(r" [^\W\d_]{1,30}s\b").match(match.string, match.end()) if self.rules.plural else None
        words = self._counting(match[0]) if plural else self._plain(match[0])
        return f"{' ' * before.isalnum()}{words}{' ' * (after.isalnum() and not joined)}"

    def _date(self, match: Match) -> str:
        day, month = int(match[1]), int(match[2])
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return match[0]
        return self.rules.date.format(day, self.rules.months.split()[month - 1], match[3])

    def _plain(self, written: str) -> str:
        whole, comma, decimals = written.partition(",")
        words = _cardinal(whole, self.code, self.rules.has_century_years and not comma) or whole
        if not comma:
            return words
        return f"{words} {self.rules.comma} " + " ".join(_cardinal(digit, self.code) or digit for digit in decimals)

    def _counting(self, written: str) -> str:
        """The words of a number before what it counts."""
        whole, comma, _ = written.partition(",")
        words = self._plain(written) if comma else (_cardinal(whole, self.code) or whole)
        for ending, other in self.rules.before_noun:
            if words == ending or (words.endswith(ending) and self.code.startswith("es")):
                return words.removesuffix(ending) + other
        return words

    def _ordinal(self, match: Match, ending: str) -> str:
        words = _words(int(match[1]), self.code, to="ordinal")
        if words is None:
            return match[0]
        lead = " " * match[0].startswith(" ")
        return f"{lead}{words[:-1] + ending if ending and not ending.startswith('è') else _first(words, ending)}"

    def _time(self, match: Match) -> str:
        hour, minute = int(match[1]), int(match[2])
        if hour > 24 or minute > 59:
            return match[0]
        words, minutes = self._counting(str(hour)), "" if minute == 0 else self._plain(str(minute))
        joint = self.rules.hour if minutes or self.rules.hour in ("Uhr", "uur", "heures") else ""
        return " ".join(filter(None, (words, joint, minutes)))

    def _money(self, match: Match) -> str:
        sign = match["before"] or match["after"]
        if not sign:
            return match[0]
        whole, _, cents = match["number"].partition(",")
        one, several = self.rules.currencies[sign]
        if cents and len(cents) != 2:
            return f"{self._plain(match['number'])} {several}"
        words = f"{self._counting(whole)} {one if whole == '1' else several}"
        if int(cents or 0):
            joint = f" {self.rules.cents}" if self.rules.cents else ""
            words += f"{joint} {self._plain(str(int(cents)))}"
        return words

    def _measure(self, match: Match) -> str:
        return f"{self._counting(match[1])} {self.units[match[2]]}"


def _beside(match: Match) -> tuple[str, str]:
    """The characters before and after a match."""
    return match.string[max(0, match.start() - 1) : match.start()], match.string[match.end() : match.end() + 1]


def _first(words: str, ending: str) -> str:
    """French "premier" -> "première"."""
    return words.removesuffix("er") + ending if ending else words


@functools.cache
def _abbreviations(language: str) -> re.Pattern[str]:
    """Abbreviations, also with a capital where a sentence begins."""
    rules = LANGUAGES[language].rules
    assert rules is not None
    written = {*rules.abbreviations, *(name[0].upper() + name[1:] for name in rules.abbreviations)}
    longest = sorted(written, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
