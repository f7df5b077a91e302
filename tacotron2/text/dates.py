"""Read clock times, decades, years, house numbers, and other numbers of three or four digits."""

import re

from tacotron2.text.patterns import ALONE, Match, rule, text_after, text_before, word_before
from tacotron2.text.spelling import cardinal, count, in_pairs, minutes, plural

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
ERA = r" (?:B\. ?C|A\. ?D|BC|AD|BCE|CE)\b"
ADDRESS = (  # after a house number
    r"(?: [A-Z][\w.']*| [0-9]+(?:st|nd|rd|th)){0,3}"
    r" (?:Street|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Lane|Place|Square|Terrace|Parkway"
    r"|Court|Way|Circle)\b"
    r"| (?:North|South|East|West|[NSEW]\.) [A-Z]"
)
NAME = r" [A-Z][a-z]+\b(?<!s)(?<!men)"  # no plurals: "2703 Mercedes" is read like "2703 Germans", as a count

BEFORE_A_YEAR = "after|around|before|between|by|circa|during|from|in|of|since|than|till|to|until|year"
DETERMINERS = "a|an|each|every|his|its|our|that|the|their|these|this|those"
NOT_PLURALS = "afterwards|always|besides|does|has|his|its|perhaps|says|sometimes|this|thus|towards|was|[a-z]*ss"
PLURALS = "children|feet|men|people|percent|women|[a-z]*s"
CLAUSE_START = (
    r" (?:a|after|an|and|as|at|but|he|his|it|its|or|she|that|the|their|they|this|to|was|we|were|when|where|which|who)\b"
)


def read_time(match: Match) -> str:
    """Read a clock time: "12:05" -> "twelve oh five"; "10:00" -> "ten o'clock", or "ten" before "a.m.".

    Numbers too large for a time are a ratio: "30:70" -> "thirty to seventy".
    """
    hour, minute, second = match["hour"], match["minute"], match["second"]
    if int(hour) > 24 or int(minute) > 59:
        return f"{cardinal(hour)} to {cardinal(minute)}"
    words = cardinal(hour.lstrip("0") or "0")
    if second:
        return f"{words} {minutes(minute)} {minutes(second)}"
    if minute != "00":
        return f"{words} {minutes(minute)}"
    if int(hour) > 12:
        return f"{words} hundred"
    said = re.match(
        r"(?: to [0-9:]{1,5})? ?([ap]\.? ?m\b|o'clock|hours|noon|midnight)", text_after(match), re.IGNORECASE
    )
    return words if said else f"{words} o'clock"


def read_decade(match: Match) -> str:
    """Read a decade: "1960s", "1960's" -> "nineteen sixties"; "'60s" -> "sixties"."""
    return plural(in_pairs(match[1]))


def counts_things(match: Match) -> bool:
    """Return True if a plural follows the four digits ("1250 men") and nothing before them announces a year."""
    following = re.match(r" ([a-z]{3,})\b|%", text_after(match))
    if not following or re.fullmatch(f"{BEFORE_A_YEAR}|{DETERMINERS}", word_before(match)):
        return False
    if re.search(rf"{MONTH},? $", text_before(match)):
        return False
    word = following[1] or "percent"
    return bool(re.fullmatch(PLURALS, word)) and not re.fullmatch(NOT_PLURALS, word)


def read_four_digits(match: Match) -> str:
    """Read 1000 to 2099 as years unless they count something, and other numbers in pairs only before an era, an
    address or a name."""
    after = text_after(match)
    if re.search(r"[=+*] ?$", text_before(match)):
        return cardinal(match[0])
    if re.search(r"\b[A-Z]{2,5} $", text_before(match)) and not counts_things(match):
        return in_pairs(match[0])  # "ISO 9001"
    if re.match(f"{ADDRESS}|{ERA}|{NAME}", after):
        return in_pairs(match[0])
    if "1000" <= match[0] < "2100" and not counts_things(match):
        return in_pairs(match[0])
    return count(match[0])


def read_three_digits(match: Match) -> str:
    """Read a year ("In 626 Assurbanipal died") or a house number ("544 Camp Street") in pairs, else a cardinal."""
    after = text_after(match)
    if re.match(f"{ADDRESS}|{ERA}", after) or word_before(match) == "year":
        return in_pairs(match[0])
    if word_before(match) in ("in", "since", "until") and re.match(rf"$|[^\w% -]| [A-Z]|{CLAUSE_START}", after):
        return in_pairs(match[0])
    return cardinal(match[0])


NOT_GROUPED = r"(?![0-9]|,[0-9]{3}(?![0-9]))"  # lookahead: no digit follows, and no comma with a group of three digits

CLOCK_RULES = (
    rule(r"(?<=[0-9]) ?([ap])\.?m\b\.?", lambda match: f" {match[1]}.m.", re.I),  # "10am"
    rule(r"(?<![\w.:,])(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}))?(?![\w:])", read_time),
    rule(r"(?<=[0-9]):(?=[0-9])", " to "),  # a ratio: "10:1"
    rule(rf"{ALONE}'?([0-9]{{1,3}}0)'?s\b", read_decade),
)
YEAR_RULES = (
    rule(rf"{ALONE}'0([0-9])(?![0-9])", lambda match: f"oh {cardinal(match[1])}"),  # "class of '05"
    rule(rf"{ALONE}'(?=[0-9]{{2}}(?![0-9]))", ""),  # "'63"
    rule(rf"(?<![0-9,])[0-9]{{4}}{NOT_GROUPED}", read_four_digits),
    rule(rf"(?<![0-9,])[0-9]{{3}}{NOT_GROUPED}", read_three_digits),
)
