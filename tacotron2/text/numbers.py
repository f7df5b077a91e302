"""Replace numbers in English text by words, with an ordered list of rules.

Each rule replaces the numbers that it recognizes, or the signs and units beside them; later rules see only what
remains. The last rule reads every remaining integer as a cardinal.
"""

import re

from tacotron2.text.codes import CODE_RULES
from tacotron2.text.dates import CLOCK_RULES, YEAR_RULES
from tacotron2.text.maths import NUMBER_RULES as MATH_RULES
from tacotron2.text.money import MONEY_RULES
from tacotron2.text.patterns import ALONE, AMOUNT, INTEGER, Match, Rules, rule, text_after, text_before
from tacotron2.text.spelling import cardinal, decimal, fraction, in_pairs, ordinal
from tacotron2.text.times import TIME_RULES
from tacotron2.text.units import UNIT_RULES

DENOMINATORS = frozenset((2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 32, 64, 100, 1000))  # "9/11" is not a fraction


def expand_numbers(text: str) -> str:
    """Replace every number in `text` by words. `text` must be ASCII except for currency and degree signs."""
    return RULES.apply(text)


def read_slashes(match: Match) -> str:
    """Read fractions and dates: "3 1/2" -> "three and one half", "11/22/1963" -> "eleven, twenty-two, nineteen
    sixty-three"."""
    whole, parts = match["whole"], match["parts"].split("/")
    if len(parts) == 2 and int(parts[1]) in DENOMINATORS and parts[0][0] != "0" and int(parts[0]) < int(parts[1]):
        part = fraction(*parts)
        return f"{cardinal(whole)} and {part}" if whole else part
    words = [in_pairs(part) if len(part) == 4 else cardinal(part.lstrip("0") or "0") for part in parts]
    return (f"{cardinal(whole)} " if whole else "") + (", " if len(parts) > 2 else " ").join(words)


def read_decimal(match: Match) -> str:
    before, after = (" " * beside.isalpha() for beside in (text_before(match)[-1:], text_after(match)[:1]))
    return f"{before}{decimal(match[1] or '', match[2])}{after}"


def read_version(match: Match) -> str:
    return " point ".join(cardinal(part) for part in match[0].split("."))


def read_ordinal(match: Match) -> str:
    return ordinal(match[1])


def read_cardinal(match: Match) -> str:
    words = cardinal(match[0])
    return words + " " if re.match(r"[A-Za-z]", text_after(match)) else words


RULES = Rules(
    rule(r"(?:(?<=[%°])|(?<=°[CF])|(?<=[0-9]0s)) ?- ?(?=[0-9])", " to "),  # first: "F-60" looks like a code
    rule(r"(?<![^ (])-(?=[0-9.$£])(?!\.[^0-9])", "minus "),
    *MONEY_RULES,
    *CODE_RULES,
    rule(rf"{ALONE}50-50(?![\w-])", "fifty fifty"),
    *TIME_RULES,
    *CLOCK_RULES,
    rule(rf"{ALONE}([0-9]{{1,2}})' ?([0-9]{{1,2}})(?:\"|'')", lambda match: f"{match[1]} foot {match[2]}"),
    rule(rf"{ALONE}([0-9]{{1,3}})' ?[x×] ?([0-9]{{1,3}})'", lambda match: f"{match[1]} feet by {match[2]} feet"),
    *UNIT_RULES,
    *MATH_RULES,
    rule(
        r"(?<![\w/.,])(?:(?P<whole>[0-9]{1,4})(?: |-|- | and ))?(?P<parts>[0-9]{1,4}(?:/[0-9]{1,4}){1,2})(?![\w/])",
        read_slashes,
    ),
    rule(r"(?<=[0-9](?:st|nd|rd|th))-(?=[0-9]{1,4}(?:st|nd|rd|th)\b)", " to "),
    rule(rf"{ALONE}({INTEGER})(?:st|nd|rd|th)\b", read_ordinal, re.I),
    rule(rf"{ALONE}([0-9]++(?<=[0-9][23]))d\b", read_ordinal),  # "the 22d of June"
    rule(rf"({AMOUNT}) ?- ?({AMOUNT})", lambda match: f"{match[1]} to {match[2]}"),
    rule(rf"{ALONE}[0-9]++(?:\.[0-9]++){{2,}}+", read_version),
    # ".38-caliber": the point of a caliber is not read
    rule(
        r"(?<![\w.])\.([0-9]{2})(?=[ -](?:[Cc]aliber|[Ss]pecial|revolver|pistol|rifle))",
        lambda match: cardinal(match[1]),
    ),
    rule(rf"(?<![0-9.,])({INTEGER})?\.([0-9]++)", read_decimal),
    rule(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", " "),
    *YEAR_RULES,
    rule(INTEGER, read_cardinal),
)
