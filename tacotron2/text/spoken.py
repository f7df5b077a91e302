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

    return num2words  # type: ignore[no-any-return]


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
        self.units = dict(zip(SYMBOLIC_UNITS, rules.units, strict=True))

    def read(self, text: str) -> str:
        text = _abbreviations(self.code).sub(lambda match: self.rules.abbreviations[match[0]], text)
        if re.search("[0-9]", text):
            text = self.numbers(text)
        for sign, (_, several) in self.rules.currencies.items():
            text = text.replace(sign, f" {several} ")
        for sign, word in self.rules.signs.items():
            text = text.replace(sign, f" {word} ")
        return text

    def numbers(self, text: str) -> str:
        """From the longest forms to the shortest."""
        text = re.sub(r"(?<!\S)[-\u2212](?=[0-9])", f"{self.rules.minus} ", text)
        for pattern, ending in self.rules.ordinals:
            text = re.sub(pattern, functools.partial(self._ordinal, ending=ending), text)
        text = re.sub(r"(?<![\w:.,])([0-9]{1,2}):([0-9]{2})(?![\w:]|[.,][0-9])( Uhr| uur)?", self._time, text)
        one = rf"(?<![\w.,])(?:(?P<before>{self.currency}) ?)?(?P<number>{self.number})"
        text = re.sub(rf"{one}(?: ?(?P<after>{self.currency})(?!\w))?", self._money, text)
        counted = "|".join(map(re.escape, SYMBOLIC_UNITS))
        text = re.sub(rf"(?<![\w.,])({self.number}) ?({counted})(?!\w)", self._measure, text)
        text = re.sub(r"(?<=[0-9])[-\u2013](?=[0-9])", f" {self.rules.until} ", text)
        # What is left of a date or a version: 2.5.1
        text = re.sub(r"(?<=[0-9])\.(?=(?![0-9]{3}(?![0-9]))[0-9])", f" {self.rules.point} ", text)
        return re.sub(self.number, lambda match: self._spaced(match, self._plain(match[0])), text)

    def _spaced(self, match: Match, words: str) -> str:
        """`words` apart from the letters beside them: "A4" -> "A vier"."""
        before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
        return f"{' ' * before.isalnum()}{words}{' ' * after.isalnum()}"

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


def _first(words: str, ending: str) -> str:
    """French "premier" -> "première"."""
    return words.removesuffix("er") + ending if ending else words


@functools.cache
def _abbreviations(code: str) -> re.Pattern[str]:
    rules = LANGUAGES[base(code)].rules
    assert rules is not None
    longest = sorted(rules.abbreviations, key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")
