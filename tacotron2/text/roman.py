"""Read Roman numerals: ordinals after a name ("Charles II." -> "Charles the second") and before "century", cardinals
after a heading."""

import re
from itertools import pairwise

from tacotron2.text.patterns import Rules, rule
from tacotron2.text.spelling import cardinal, in_pairs, ordinal

HEADINGS = re.compile(
    "act|apollo|appendix|article|book|bowl|fantasy|canto|chapter|class|division|figure|game|grade|group|level|mark|no|number|page|part"
    "|phase|plate|psalm|rocky|saturn|scene|schedule|section|series|stage|step|table|title|type|vatican|vol|volume|war",
    re.IGNORECASE,
)
# Except after a heading, a single I, V or X is a numeral only after one of these names, or a name with a title;
# elsewhere it is the pronoun or an initial.
RULERS = re.compile(
    "alexander|antiochus|artaxerxes|cambyses|catherine|charles|constantine|cyrus|darius|edward|elizabeth|ferdinand"
    "|francis|frederick|george|gregory|gustavus|henry|james|leo|leopold|louis|napoleon|nebuchadnezzar|nicholas|otto"
    "|peter|philip|pius|ptolemy|rameses|ramses|richard|sargon|seleucus|victor|william|xerxes",
    re.IGNORECASE,
)
TITLES = r"(?:King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Sultan|Prince) "
AFTER_A_RULER = r"(?:$|[^\w ]| (?:and|at|by|came|died|for|from|had|in|is|of|on|the|to|was|were|who|with)\b)"

_VALID = re.compile(r"(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")  # 1 to 99
_LETTER_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
NOT_NAMES = {
    "A", "An", "And", "As", "At", "But", "By", "For", "From", "Her", "His", "In", "Its", "My", "No", "Of", "On",
    "Or", "Our", "That", "The", "Their", "This", "To", "With", "Your",
}  # fmt: skip


def roman_value(numeral: str) -> int:
    """Return the value of a well-formed numeral below 100, else 0."""
    if not _VALID.fullmatch(numeral):
        return 0
    return _value(numeral)


def _value(numeral: str) -> int:
    values = [_LETTER_VALUES[letter] for letter in numeral]
    return sum(-value if value < after else value for value, after in pairwise([*values, 0]))


def _read_alone(match: re.Match[str]) -> str:
    """Read "XIV" as "fourteen", "MCMXCIX" as "nineteen ninety-nine", and "the XXIII Games" as "the twenty-third"."""
    number = str(_value(match["numeral"]))
    the = match["the"] or ""
    return the + (ordinal(number) if the and match["event"] is not None and len(number) < 3 else in_pairs(number))


def _read(match: re.Match[str]) -> str:
    name, numeral, dot = match["name"], match["numeral"], match["dot"] or ""
    value = roman_value(numeral)
    heading = HEADINGS.fullmatch(name.rstrip("."))
    if not value or numeral in ("L", "C") or not (heading or _is_ruler(match)):
        return match[0]
    rest = match.string[match.end() : match.end() + 2]
    if re.match(r"[,;:)]| [a-z]", rest):
        dot = ""  # an old style puts a period after every numeral; it does not end the sentence
    words = cardinal(str(value)) if heading else f"the {ordinal(str(value))}"
    return f"{match['title'] or ''}{name} {words}{dot}"


def _is_ruler(match: re.Match[str]) -> bool:
    name, numeral = match["name"], match["numeral"]
    if name.endswith(".") or name in NOT_NAMES:
        return False  # "St. II" is not a ruler, nor is "an IV drip"
    if len(numeral) > 1:
        return set(numeral) <= set("IVX")
    if not (match["title"] or RULERS.fullmatch(name)):
        return False
    after = match.string[match.end("numeral") : match.end("numeral") + 12]
    if numeral == "I":
        return re.match(AFTER_A_RULER, after) is not None
    return not re.match(r"\. [A-Z]", after)  # "George V. Higgins"


def _read_century(match: re.Match[str]) -> str:
    value = roman_value(match[1])
    return ordinal(str(value)) if value else match[0]


ROMAN_RULES = Rules(
    rule(r"\b([IVX]{2,5})(?= [Cc]entury\b)", _read_century),
    rule(rf"\b(?P<title>{TITLES})?(?P<name>[A-Z][A-Za-z]+\.?) (?P<numeral>[IVXLC]+)\b(?P<dot>\.)?", _read),
    # Without a name: three or more of I, V, X, or a year; shorter ones are words, initials or sizes.
    rule(
        r"\b(?P<the>[Tt]he )?(?P<numeral>(?=[IVX]{3})X{0,3}(?:IX|IV|V?I{0,3})|(?=[A-Z]{5})M{1,3}(?:CM|CD|D?C{0,3})"
        r"(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))(?![\w'-])(?P<event>(?= [A-Z][a-z]))?",
        _read_alone,
    ),
    # "IV", "VI" and "XI" are numerals only in a list: elsewhere they may be a drip or a name.
    rule(
        r"(?<![\w.'-])(?:II|IX|(?:(?<=, )|(?<=\())(?:IV|VI|XI)(?=[,;.)]|$))(?![\w'-])",
        lambda match: cardinal(str(_value(match[0]))),
    ),
)


def expand_roman(text: str) -> str:
    """Replace the Roman numerals whose context shows that they are numerals."""
    return ROMAN_RULES.apply(text)
