"""Read numbers that are names, not amounts: "No. 133-A", "P.O. Box 2915", "C2766", telephone numbers."""

import re

from tacotron2.text.patterns import ALONE, INTEGER, Match, rule, text_before
from tacotron2.text.spelling import cardinal, digit_by_digit, in_pairs

LABEL = r"\b(?:exhibit|page|room|flight|highway|route|boeing|airbus|interstate|p\. ?s\.|i\.?q\.?(?: of)?)(?= )"
DIGITS_LABEL = (
    r"\b(?:box|zip(?: code)?|(?:serial|telephone|phone|badge|account) (?:number|no\.)"
    r"|(?:pin|password|passcode)(?: is| was|:)?)"
)


def read_identifier(digits: str) -> str:
    """Read up to two digits as a cardinal, three or four in pairs, more digit by digit."""
    digits = digits.replace(",", "")
    return digit_by_digit(digits) if len(digits) > 4 else in_pairs(digits)


def read_label(match: Match) -> str:
    """Read "No. 133-A" as "number one thirty-three A"."""
    label = {"no.": "number", "nos.": "numbers", "#": "number"}.get(match["label"].lower(), match["label"])
    space = " " * text_before(match)[-1:].isalnum()
    return f"{space}{label} {read_identifier(match['digits'])} {match['letter'] or ''}".rstrip()


def read_digits_label(match: Match) -> str:
    return f"{match[1]} {digit_by_digit(match[2])}"


def read_code(match: Match) -> str:
    """Read letters one by one, and digits too if there are more than two.

    "C2766" -> "C two seven six six", "B-29" -> "B twenty-nine".
    """
    digits = match["digits"]
    return f"{' '.join(match['letters'])} {digit_by_digit(digits) if len(digits) > 2 else cardinal(digits)}"


def read_suffixed_code(match: Match) -> str:
    """Read "133-A" as "one thirty-three A"."""
    return f"{in_pairs(match[1])} {match[2]}"


def read_groups(match: Match) -> str:
    """Read groups with a pause between them, digit by digit as in telephone numbers.

    If the first group has four digits, it may be a year: "1963-11-22" -> "nineteen sixty-three, eleven, twenty-two".
    """
    groups = re.findall(r"[0-9]+", match[0])
    if len(groups[0]) == 4:
        return ", ".join(in_pairs(group) if len(group) == 4 else cardinal(group.lstrip("0") or "0") for group in groups)
    return ", ".join(read_group(group) for group in groups)


def read_group(digits: str) -> str:
    """Read the group of a telephone number: "555" digit by digit, but "800" as "eight hundred"."""
    return cardinal(digits) if re.fullmatch("[1-9]00", digits) else digit_by_digit(digits)


def read_digit_groups(match: Match) -> str:
    return ", ".join(digit_by_digit(group) for group in re.findall(r"[0-9]+", match[0]))


def read_mark(mark: str) -> str:
    return digit_by_digit(mark) if mark.isdecimal() else mark


def read_international(match: Match) -> str:
    """Read "+44 20 7946 0958" as "plus four four, two zero, seven nine four six, zero nine five eight"."""
    return f"plus {read_groups(match)}"


def read_digits(match: Match) -> str:
    return digit_by_digit(match[0])


CODE_RULES = (
    rule(rf"((?:\bnos?\.|{LABEL}) ?[0-9]{{1,5}}) ?- ?(?=[0-9])", lambda match: f"{match[1]} to ", re.I),
    rule(r"(?<=[a-z] )No (?=[0-9])", "number "),
    rule(r"(?<![\w+])\+[0-9]{1,3}(?:[ .-]\(?[0-9]{1,5}\)?(?![0-9])){2,5}", read_international),
    # national numbers: "020 7946 0123", "(555) 123 4567"; four groups of four are the number of a card
    rule(
        r"(?<![\w.,+-])(?:1 )?(?:\([0-9]{3,5}\)|0[0-9]{2,4}|[0-9]{3}(?= [0-9]{3} ))"
        r"[ -][0-9]{3,4}[ -][0-9]{3,4}(?![\w-])",
        read_groups,
    ),
    rule(r"(?<![\w.,-])(?:[0-9]{4} ){3}[0-9]{4}(?![\w-])", read_digit_groups),
    rule(r"(?<![\w.,-])[0-9]{5}-[0-9]{4}(?![\w-])", read_digit_groups),
    rule(r"(?<![\w.,-])(?:[0-9]{1,7}-){4,6}[0-9]{1,7}(?![\w-])", read_digit_groups),
    rule(r"\b0x([0-9A-Fa-f]{1,16})\b", lambda match: f"zero x {' '.join(map(read_mark, match[1]))}"),
    rule(r"\b([A-G])#(?!\w)", lambda match: f"{match[1]} sharp"),
    rule(
        r"\b((?:[Dd]ial|[Cc]all|[Tt]ext|[Pp]hone)(?: [A-Z]+ to)?) ([0-9]{3}|[0-9]{5,6})"
        r"(?=[.,;:!?)\"]|$| (?:and|at|for|from|if|immediately|in|now|on|or|to|when)\b)(?![.,][0-9])",
        read_digits_label,
    ),
    rule(r"\b([45][0-9]{2})(?= errors?\b)", lambda match: in_pairs(match[1])),
    rule(r"(?<=\bFY)(?=[12][0-9]{3}\b)", " "),  # a fiscal year
    rule(r"(?<![\w.,-])([1-9][0-9]{0,2})((?: 000){1,4})(?! ?[0-9])", lambda match: match[0].replace(" ", "")),
    rule(r"(?<=\b[A-Z]{5})-(?=[0-9])", " "),  # "COVID-19"; shorter ones are codes
    rule(r"(?<![\w.,-])(?:\(?[0-9]{3}\)?[-. ])?[0-9]{3}[-.][0-9]{4}(?![\w-])", read_groups),
    rule(r"(?<![\w.,-])(?:[0-9]{1,4}-){2,4}[0-9]{2,4}(?![\w-])", read_groups),
    # 10 or more digits without thousands separators, not a round number: a telephone or serial number
    rule(r"(?<![0-9.,])[0-9]{10,}+(?<!000)", read_digits),
    rule(rf"({DIGITS_LABEL}) ([0-9]{{3,}}+)", read_digits_label, re.I),
    rule(rf"(?P<label>\bnos?\.|#|{LABEL}) ?(?P<digits>{INTEGER})(?:-?(?P<letter>[A-Z])\b)?", read_label, re.I),
    rule(r"\b(?P<letters>[A-Z]{1,4})-?(?P<digits>[0-9]++)\b(?![.,/-][0-9])", read_code),
    rule(rf"{ALONE}([0-9]{{3,4}})-([A-Z])\b", read_suffixed_code),
)
