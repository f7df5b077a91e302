"""Parts that all rules use: the type of a rule, patterns for amounts, and the words around a match.

A rule is a pattern and a reader, which turns each match into words. The time is linear in the length of the text, for
any text: every unbounded quantifier is possessive (`++`), a lookbehind or a prefix keeps patterns that can fail from
being tried at each digit of a long number, and readers look at no more than `CONTEXT` characters on each side of a
match.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from tacotron2.text.needs import Needed, needed

Match = re.Match[str]

CONTEXT = 40

INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3}(?![0-9]))++|[0-9]++)"  # 2345 or 2,345
AMOUNT = rf"(?<![0-9.,]){INTEGER}(?:\.[0-9]++)?"
ALONE = r"(?<![\w.,])"  # lookbehind: not inside a longer number or word


class Rule(NamedTuple):
    """Replaces each match of `pattern` by what `read` makes of it."""

    pattern: re.Pattern[str]
    read: Callable[[Match], str]
    needs: Needed  # characters of which a text with a match has at least one


def rule(pattern: str, read: Callable[[Match], str] | str, flags: int = 0) -> Rule:
    """Compile a rule. `read` is a function of the match, or fixed words that replace it."""
    if isinstance(read, str):
        words = read
        return rule(pattern, lambda match: words, flags)
    return Rule(re.compile(pattern, flags), read, needed(pattern, flags))


class Rules:
    """Rules that are applied one after the other. Those that need characters which the text has not are left out."""

    def __init__(self, *rules: Rule) -> None:
        self.rules = rules
        self.always = {k for k, one in enumerate(rules) if one.needs is None}
        self.by_character: dict[str, set[int]] = {}
        for k, one in enumerate(rules):
            for character in one.needs or ():
                self.by_character.setdefault(character, set()).add(k)

    def apply(self, text: str) -> str:
        """Replace all that the rules find."""
        done = 0
        while True:
            present = self.by_character.keys() & set(text)
            left = self.always.union(*map(self.by_character.__getitem__, present))
            for k in sorted(left):
                if k < done:
                    continue
                replaced = self.rules[k].pattern.sub(self.rules[k].read, text)
                if replaced != text:  # later rules may find other characters
                    text, done = replaced, k + 1
                    break
            else:
                return text


def text_before(match: Match) -> str:
    return match.string[max(0, match.start() - CONTEXT) : match.start()]


def text_after(match: Match) -> str:
    return match.string[match.end() : match.end() + CONTEXT]


def word_before(match: Match) -> str:
    """Return the word before the match in lowercase, or "" if anything but a space or "(" lies between."""
    found = re.search(r"([A-Za-z.']+) ?\(?$", text_before(match))
    return found[1].lower().rstrip(".") if found else ""
