"""Parts that all number rules use: the type of a rule, patterns for amounts, and the words around a match.

A rule is a pattern and a reader, which turns each match into words. The time is linear in the length of the text, for
any text: every unbounded quantifier is possessive (`++`), a lookbehind or a prefix keeps patterns that can fail from
being tried at each digit of a long number, and readers look at no more than `CONTEXT` characters on each side of a
match.
"""

import re
from collections.abc import Callable

Match = re.Match[str]
Rule = tuple[re.Pattern[str], Callable[[Match], str]]

CONTEXT = 40

INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)"  # 2345 or 2,345
AMOUNT = rf"(?<![0-9.,]){INTEGER}(?:\.[0-9]++)?"
ALONE = r"(?<![\w.,])"  # lookbehind: not inside a longer number or word


def rule(pattern: str, read: Callable[[Match], str] | str, flags: int = 0) -> Rule:
    """Compile a rule. `read` is a function of the match, or fixed words that replace it."""
    if isinstance(read, str):
        words = read
        return re.compile(pattern, flags), lambda match: words
    return re.compile(pattern, flags), read


def text_before(match: Match) -> str:
    return match.string[max(0, match.start() - CONTEXT) : match.start()]


def text_after(match: Match) -> str:
    return match.string[match.end() : match.end() + CONTEXT]


def word_before(match: Match) -> str:
    """Return the word before the match in lowercase, or "" if anything but a space or "(" lies between."""
    found = re.search(r"([A-Za-z.']+) ?\(?$", text_before(match))
    return found[1].lower().rstrip(".") if found else ""
