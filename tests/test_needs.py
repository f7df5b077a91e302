"""The characters that a text must have for a rule of the cleaners to match in it."""

from __future__ import annotations

import re
import string

import pytest

from tacotron2.text import needs
from tacotron2.text.acronyms import ACRONYM_RULES
from tacotron2.text.addresses import ADDRESS_RULES
from tacotron2.text.cleaners import ABBREVIATION_RULES, CONTEXT_RULES, SIGN_RULES, english_cleaners
from tacotron2.text.needs import needed
from tacotron2.text.numbers import RULES
from tacotron2.text.patterns import Rule, Rules, rule
from tacotron2.text.roman import ROMAN_RULES
from tacotron2.text.web import WEB_RULES
from tests.helpers import REPOSITORY

ALL = [
    one
    for rules in (
        RULES, WEB_RULES, ADDRESS_RULES, SIGN_RULES, ROMAN_RULES, ACRONYM_RULES, CONTEXT_RULES, ABBREVIATION_RULES
    )
    for one in rules.rules
]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "flags", "expected"),
    [
        ("a+X", 0, "X"),
        ("a|1", 0, "a1"),
        ("(?:ab){2}", 0, "a"),
        ("x?", 0, None),
        ("(?:b|)c", 0, "c"),
        (r"\w", 0, None),
        ("[^a]", 0, None),
        (r"[\dz]", 0, None),
        (r"\w(?=[%5])", 0, "%5"),
        (r"(?<=[$])\w", 0, "$"),
        (r"(?<![$])q(?!7)", 0, "q"),
        ("[0-9]++", 0, string.digits),
        ("(?>7|8)", 0, "78"),
        ("(?i)k", 0, "kK\u212a"),
        ("st", re.IGNORECASE, "sS\u017f"),
        ("\u00b5", re.IGNORECASE, None),
        ("\u00a3", re.IGNORECASE, "\u00a3"),
        ("(?i:x)y", 0, "y"),
        ("(?i:x)", 0, None),
        ("(a)\\1", 0, "a"),
        ("", 0, None),
        ("[\u0400-\uffff]", 0, None),
    ],
)
def test_what_a_pattern_needs(pattern: str, flags: int, expected: str | None) -> None:
    assert needed(pattern, flags) == (None if expected is None else frozenset(expected))


def texts() -> list[str]:
    readings = (REPOSITORY / "tests/data/readings.tsv").read_text(encoding="utf-8").splitlines()
    numbers = (REPOSITORY / "tests/data/ljspeech_numbers.csv").read_text(encoding="utf-8").splitlines()
    return [*readings, *numbers, *(REPOSITORY / "filelists/unseen_sentences.txt").read_text().splitlines()]


def test_a_rule_that_is_left_out_would_not_have_matched() -> None:
    found = [(text, set(text)) for text in texts()]
    left_out = 0
    for one in ALL:
        assert one.needs, one.pattern.pattern
        for text, present in found:
            if one.needs.isdisjoint(present):
                left_out += 1
                assert not one.pattern.search(text), (one.pattern.pattern, text)
    assert left_out > 0.5 * len(found) * len(ALL)  # these texts were chosen for their numbers and signs


def test_what_a_rule_writes_is_seen_by_the_next() -> None:
    assert Rules(rule("b", "?"), rule("a", "1"), rule("1", "b"), rule("b", "c")).apply("xa") == "xc"
    assert Rules(rule("a", "1"), rule("1", "a"), rule("a", "b")).apply("aba") == "bbb"


def test_without_the_parser_all_rules_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "_parser", None)
    assert needed("a") is None
    every = Rules(*(Rule(one.pattern, one.read, needed(one.pattern.pattern)) for one in RULES.rules))
    for text in texts()[::100]:
        assert every.apply(text) == RULES.apply(text)
    assert english_cleaners("In 1851, 5 % of $20.") == "in eighteen fifty-one, five percent of twenty dollars."
