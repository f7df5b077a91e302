"""Which characters a text must have for a pattern to match somewhere in it: most rules need not be tried on most texts.

Derived from the pattern itself, so that a rule says nothing twice. Where that is not possible, a rule is always tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

try:
    from re import _constants, _parser  # type: ignore[attr-defined] # of CPython 3.11 and later; there is no public way
except ImportError:
    _parser = None

MAX_RANGE = 128  # characters; a range with more of them counts as anything
# Other letters that a pattern without regard to case takes for the same as these.
FOLDED = {"s": "\u017f", "k": "\u212a", "i": "\u0130\u0131"}

Needed = frozenset[str] | None  # None: nothing is known


def needed(pattern: str, flags: int = 0) -> Needed:
    """Characters of which each text with a match has at least one."""
    if _parser is None:
        return None
    parsed = _parser.parse(pattern, flags)
    found = _of_sequence(parsed)
    if found is None or not (flags | parsed.state.flags) & re.IGNORECASE:
        return found
    if any(not one.isascii() and one.lower() != one.upper() for one in found):
        return None  # such letters have more forms
    return frozenset(
        other for one in found for other in (one.lower(), one.upper(), *FOLDED.get(one.lower(), "")) if len(other) == 1
    )


def _of_sequence(items: Iterable[Any]) -> Needed:
    """Of all parts, each of which must match, the one with the rarest characters."""
    return min(map(_of_part, items), key=_frequency, default=None)


def _frequency(characters: Needed) -> float:
    """Roughly how many of these a text has."""
    if characters is None:
        return float("inf")
    return sum(1.0 if one in " .,'" or one.islower() else 0.2 if one.isupper() else 0.01 for one in characters)


def _of_part(part: tuple[Any, Any]) -> Needed:
    kind, value = part
    if kind is _constants.LITERAL:
        return frozenset(chr(value))
    if kind is _constants.IN:
        return _of_set(value)
    if kind is _constants.BRANCH:
        return _union(map(_of_sequence, value[1]))
    if kind is _constants.SUBPATTERN:
        _, added_flags, _, inside = value
        return None if added_flags & re.IGNORECASE else _of_sequence(inside)
    if kind is _constants.ATOMIC_GROUP:
        return _of_sequence(value)
    if kind is _constants.ASSERT:  # what is looked for is in the text as well
        return _of_sequence(value[1])
    if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
        return _of_sequence(value[2]) if value[0] else None
    return None


def _of_set(items: Iterable[tuple[Any, Any]]) -> Needed:
    return _union(_of_member(kind, value) for kind, value in items)


def _of_member(kind: Any, value: Any) -> Needed:
    if kind is _constants.LITERAL:
        return frozenset(chr(value))
    if kind is _constants.RANGE and value[1] - value[0] < MAX_RANGE:
        return frozenset(map(chr, range(value[0], value[1] + 1)))
    return None  # such as a class like \w, or a set of what must not match


def _union(sets: Iterable[Needed]) -> Needed:
    found: set[str] = set()
    for one in sets:
        if one is None:
            return None
        found |= one
    return frozenset(found)
