"""What the rules for numbers share: the shape of a rule, patterns of amounts, and the words around a match.

A rule is a pattern and a reader, which turns each match into words. Every pattern starts with a look-behind or a fixed
prefix and uses possessive repeats (`++`), and readers look at `CONTEXT` characters at most, so that the time is linear
in the length of the text whatever it holds.
"""

import re
from collections.abc import Callable

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str]]

CONTEXT = 40

INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)"  # 2345 or 2,345
AMOUNT = rf"(?<![0-9.,]){INTEGER}(?:\.[0-9]++)?"
ALONE = r"(?<![\w.,])"  # in front: not the inside of a longer number or word


def rule(pattern: str, read: Callable[[Match], str] | str, flags: int = 0) -> Rule:
    """`read` is a function of the match, or words that replace it whatever it is."""
    if isinstance(read, str):
        words = read
        return re.compile(pattern, flags), lambda match: words
    return re.compile(pattern, flags), read


def text_before(match: Match) -> str:
    return match.string[max(0, match.start() - CONTEXT) : match.start()]


def text_after(match: Match) -> str:
    return match.string[match.end() : match.end() + CONTEXT]


def word_before(match: Match) -> str:
    """The word before the match in lower case, or "" if anything but a space or a bracket lies between."""
    found = re.search(r"([A-Za-z.']+) ?\(?$", text_before(match))
    return found[1].lower().rstrip(".") if found else ""
