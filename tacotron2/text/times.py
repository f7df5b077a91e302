"""Read durations, time zones, and ranges of times, days and months: "1h 30m", "7 PM EST", "9am-5pm", "Mon-Fri"."""

from __future__ import annotations

import re

from tacotron2.text.patterns import Match, Rule, rule, text_after, text_before
from tacotron2.text.spelling import cardinal, decimal, minutes

DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
MONTHS = {
    "Jan": "January", "Feb": "February", "Mar": "March", "Apr": "April", "May": "May", "Jun": "June", "Jul": "July",
    "Aug": "August", "Sept": "September", "Sep": "September", "Oct": "October", "Nov": "November", "Dec": "December",
}  # fmt: skip
ZONES = {"E": "eastern", "C": "central", "M": "mountain", "P": "Pacific"}
_DAY, _MONTH = "|".join(DAYS), "|".join(MONTHS)
_CLOCK = "[0-9]{1,2}:[0-9]{2}"


def counted(digits: str, unit: str) -> str:
    """Return the number and its unit: "2", "hour" -> "two hours"."""
    number = digits.lstrip("0") or "0"
    return f"{cardinal(number)} {unit}{'' if number == '1' else 's'}"


def read_zone(match: Match) -> str:
    """Read an American time zone after a time: "EST" -> "eastern standard time", "ET" -> "eastern time"."""
    kind = {"S": " standard", "D": " daylight"}.get(match["kind"] or "", "")
    return f"{match['time']} {ZONES[match['zone']]}{kind} time"


def read_duration(match: Match) -> str:
    """Read "1h 30m" as "one hour thirty minutes"."""
    return " ".join(
        counted(digits, unit)
        for digits, unit in zip(match.groups(), ("hour", "minute", "second"), strict=True)
        if digits
    )


def read_result(match: Match) -> str:
    """Read the time of a race: "1:43.2" -> "one minute forty-three point two seconds"."""
    seconds = f"{decimal(match[2].lstrip('0') or '0', match[3])} seconds"
    return f"{counted(match[1], 'minute')} {seconds}"


def read_long_time(match: Match) -> str:
    """Read "2:01:09" as a duration after "in" and the like, and leave the time of day to later rules."""
    if not re.search(r"\b(?:in|lasted|of|took|time|record|after) $", text_before(match)):
        return match[0]
    return read_duration(match)


def read_military(match: Match) -> str:
    """Read "0800" before "hours" as "oh eight hundred"."""
    return f"oh {cardinal(match[1])} {'hundred' if match[2] == '00' else minutes(match[2])}"


def read_day(match: Match) -> str:
    """Read "Fri." as "Friday", and keep a period that ends the sentence."""
    ends = re.match(rf" (?!(?:{_MONTH})[a-z]*\b)[A-Z]", text_after(match))
    return DAYS[match[1]] + "." * (ends is not None)


def read_span(names: dict[str, str], match: Match) -> str:
    return f"{names[match[1]]} to {names[match[2]]}"


TIME_RULES: tuple[Rule, ...] = (
    rule(rf"\b({_DAY})\.? ?- ?({_DAY})\b\.?", lambda match: read_span(DAYS, match)),
    rule(rf"\b({_MONTH})\.? ?- ?({_MONTH})\b\.?(?= |$)", lambda match: read_span(MONTHS, match)),
    rule(r"\b(Mon|Tues?|Wed|Thurs?|Fri)\.(?=[ ,;)])", read_day),
    rule(
        rf"\b(?!Sun\b|Sat\b|Mar\b)({_DAY})(?:\.,?|,)? (?=[0-9]{{1,2}}\b|(?:{_MONTH}))|\b(Sat|Sun)(?:\.,?|,) (?=[0-9])",
        lambda match: f"{DAYS[match[1] or match[2]]} ",
    ),
    rule(rf"(?<=[0-9] )(?!May\b|Mar\b)({_MONTH})\b(?:\.(?=[ ,;)]))?", lambda match: MONTHS[match[1]]),
    rule(rf"\b(?!May\b|Mar\b)({_MONTH}) (?=[0-9]{{1,2}}\b(?!:))", lambda match: f"{MONTHS[match[1]]} "),
    rule(
        rf"(?P<time>\b[0-9]{{1,2}} ?[aApP]\.?[mM]\b\.?|{_CLOCK}) (?P<zone>[ECMP])(?P<kind>[SD])?T\b",
        read_zone,
    ),
    rule(rf"\b({_CLOCK} ?[ap]\.?m\b\.?|{_CLOCK}) ?- ?(?={_CLOCK})", lambda match: f"{match[1]} to ", re.I),
    rule(r"(?<=[0-9]) ?([ap])\.?m\b\.? ?- ?(?=[0-9])", lambda match: f" {match[1]}.m. to ", re.I),
    rule(r"\b([0-9]{1,2}) ?h(?:rs?)? ?([0-9]{1,2}) ?m(?:ins?)?\b(?: ?([0-9]{1,2}) ?s(?:ec)?\b)?", read_duration),
    rule(r"(?<![\w:.])([0-9]{1,2}):([0-5][0-9])\.([0-9]{1,3})(?![\w:.]{0,3}[0-9])", read_result),
    rule(r"(?<![\w:.])([0-9]{1,2}):([0-5][0-9]):([0-5][0-9])(?![\w:])", read_long_time),
    rule(r"(?<![\w:.,])0([0-9])([0-5][0-9])(?= hours\b)", read_military),
)
