"""Read the signs of simple mathematics: "3 × 4 = 12", "x² ≤ 10⁶", "√16", "5 ± 2"."""

import re

from tacotron2.text.patterns import AMOUNT, Match, Rule, Rules, rule, text_after

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
RELATIONS = {
    "≤": "less than or equal to", "≥": "greater than or equal to", "≠": "not equal to", "≈": "approximately equal to",
    "≡": "identical to",
}  # fmt: skip
COMPARISONS = {"<": "less than", ">": "greater than", "<=": "less than or equal to", ">=": "greater than or equal to"}
UNREAD = "™®℠"  # like quotation marks, they have no sound
KEEP = "×"  # read by NUMBER_RULES, which see what it multiplies

# Before transliteration, which would lose these signs or change their meaning.
_SIGN_RULES = Rules(
    rule("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]++", lambda match: _read_superscript(match)),
    rule(rf"(?<=[\w)\]]) ?([{''.join(RELATIONS)}]) ?", lambda match: f" is {RELATIONS[match[1]]} "),
    rule(rf"([{''.join(RELATIONS)}]) ?", lambda match: f"{RELATIONS[match[1]]} "),
    rule(" ?± ?", " plus or minus "),
    rule(" ?÷ ?", " divided by "),
    rule("√ ?", "the square root of "),
    rule(r"(?<![^\W\d_])π(?![^\W\d_])", " pi "),
    rule("∞", " infinity "),
    rule("‰", " per mille"),
    rule(r"(?<=[0-9 ])[µμ](?=[gmlLsAVWF]\b)", "u"),
    rule("℃", "°C"),
    rule("℉", "°F"),
    rule("§§? ?", "section "),
    rule(f"[{UNREAD}]", ""),
    rule(r"(?:\b[Cc]opyright )?© ?", "copyright "),
    rule(r"[−](?=[0-9])", "-"),  # noqa: RUF001
)


def _read_superscript(match: Match) -> str:
    """Write a superscript as a power, "10⁶" -> "10^6", unless it marks a footnote, as after a word."""
    digits = match[0].translate(SUPERSCRIPTS)
    before = match.string[max(0, match.start() - 5) : match.start()]
    return (
        f"^{digits}"
        if re.search(r"(?:[0-9)]|(?:^|[^A-Za-z])(?:[A-Za-z]{1,2}|[cdkm]?m|ft|in|mi|yd))$", before)
        else digits
    )


def name_signs(text: str) -> str:
    """Replace mathematical signs outside ASCII by words, or by signs that later rules read."""
    if text.isascii():
        return text
    return _SIGN_RULES.apply(text)


def read_times(match: Match) -> str:
    """Read a sign between numbers: "times" in a formula or for the signs × and *, "by" in a size: "2 x 4 inches"."""
    after = text_after(match)
    size = re.match(rf"{AMOUNT} ?(?:[x×] ?{AMOUNT} ?)?(?:-?[a-z]{{2}}|'|\")", after)
    formula = re.match(r"[^=]{0,30}[=^]", after) or match[1] == "*"
    return " times " if formula or (match[1] == "×" and not size) else " by "


def read_scientific(match: Match) -> str:
    return f"{match[1]} times 10^{match[2].lstrip('+')}"


def read_power(match: Match) -> str:
    """Read "^2" as "squared", "^3" as "cubed", "^10" as "to the power of 10"."""
    words = {"2": "squared", "3": "cubed"}.get(match[1])
    return f" {words}" if words else f" to the power of {match[1].replace('-', 'minus ').lstrip('+')}"


NUMBER_RULES: tuple[Rule, ...] = (
    rule(r"(?<![\w.])([0-9]{1,9}(?:\.[0-9]{1,9})?)[eE]([+-]?[0-9]{1,3})\b", read_scientific),
    rule(r"(?:(?<=feet )|(?<=inches )|(?<=meters ))[x×] (?=[0-9])", "by "),
    rule(r"(?<=[=(+*] )-(?=[a-z]\b)", "minus "),
    rule(r"(?<=\)) / ", " divided by "),
    rule(rf"(?<=[0-9]) ?([x×*]) ?(?={AMOUNT}(?! ?x [a-z]))", read_times),
    rule(r"(?<=[0-9])[x×](?= [a-z])", " times"),
    rule(r" ?× ?", " times "),
    rule(r"(?<=[0-9]) x (?=[A-Z]{1,3}\b)", " times "),
    rule(r"(?<=[0-9]) - (?=[0-9][0-9.,]{0,20} ?=)", " minus "),
    rule(r"(?<=[0-9]) / (?=[0-9][0-9.,]{0,20} ?=)", " divided by "),
    rule(r"(?<=[\w)])\^(-?[0-9]{1,15}|[a-z](?![a-z]))", read_power),
    rule(
        r"(?:(?<=[0-9)])|(?<=\b[A-Za-z])) ([<>]=?) (?=[0-9(.-]|[A-Za-z]\b)",
        lambda match: f" is {COMPARISONS[match[1]]} ",
    ),
    rule(r"(?<=[a-z]) > (?=[A-Z][a-z])", ", "),  # the menus of a program
    rule(r"(?<=[A-Za-z0-9)])([<>]=?)(?=-?\.?[0-9])", lambda match: f" is {COMPARISONS[match[1]]} "),
    rule(r"(?<![^ (])([<>]=?) ?(?=[0-9])", lambda match: f"{COMPARISONS[match[1]].replace('greater', 'more')} "),
    rule(r"(?<![\w/])~ ?(?=[0-9])", "about "),
)
