"""Read sums of money: "£5 10s.", "$21.45", "$2.5 million", "a $10 bill"."""

import re

from tacotron2.text.patterns import ALONE, AMOUNT, INTEGER, Match, rule, text_after, word_before
from tacotron2.text.spelling import cardinal, count, decimal
from tacotron2.text.units import PER

CURRENCIES = {  # singular and plural of the unit, then of its hundredth
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "jeon", "jeon"),
    "₽": ("ruble", "rubles", "kopeck", "kopecks"),
}
CURRENCY_SYMBOLS = "".join(CURRENCIES) + "¢"
SIGNS = f"[{''.join(CURRENCIES)}]"

COUNTRIES = {
    "US": "U S ", "C": "Canadian ", "CA": "Canadian ", "A": "Australian ", "AU": "Australian ", "NZ": "New Zealand ",
    "HK": "Hong Kong ",
}  # fmt: skip
CODES = {"USD": "US$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹"}  # of ISO 4217

SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}
SCALE = r"(?:[ -]?(?P<scale>hundred|thousand|million|billion|trillion)\b|(?P<letter>[kK]|[mMbB]n?)\b)"


def read_money(match: Match) -> str:
    """Put the unit after the amount and its scale: "$2.5 million" -> "two point five million dollars"."""
    one, many, one_part, many_parts = CURRENCIES[match["sign"]]
    whole, _, parts = match["amount"].partition(".")
    whole = whole.replace(",", "") or "0"
    # Before a word of four letters or more ("a $10 bill", "a £2 million loan", but not "a $10 and"), the amount is an
    # adjective, and the unit stays singular.
    adjective = word_before(match) in ("a", "an") and re.match(r"[ -][a-z]{4}", text_after(match)) is not None
    country = COUNTRIES[match["country"]] if match["country"] else ""
    one, many = country + one, country + many
    scale = match["scale"] or SCALES.get((match["letter"] or "").lower(), "")
    if scale or len(parts) not in (0, 2):
        words = decimal(whole, parts) if parts else cardinal(whole)
        return " ".join(filter(None, (words, scale, one if adjective else many)))
    sums = []
    if whole.strip("0") or not parts.strip("0"):
        sums.append(f"{count(whole)} {one if adjective or whole == '1' else many}")
    if parts.strip("0"):
        sums.append(f"{cardinal(parts.lstrip('0'))} {one_part if parts == '01' else many_parts}")
    return ", ".join(sums)  # the published checkpoints were trained with this comma


def read_cents(match: Match) -> str:
    return f"{match[1]} {'cent' if match[1] == '1' else 'cents'}"


def read_shillings_and_pence(match: Match) -> str:
    """Read shillings, pence or both: "10s. 6d." -> "ten shillings, six pence"."""
    shillings, pence = match["shillings"], match["pence"]
    sums = []
    if shillings:
        sums.append(f"{cardinal(shillings)} {'shilling' if shillings == '1' else 'shillings'}")
    if pence:
        sums.append("one penny" if pence == "1" else f"{cardinal(pence)} pence")
    return ", ".join(sums)


COUNTED = "barrels|copies|customers|deaths|homes|households|jobs|people|tons|tonnes|users|viewers|views|visitors|years"

MONEY_RULES = (
    rule(
        rf"({SIGNS} ?[0-9][0-9,.]{{0,20}}[kKmMbB]?)/({'|'.join(PER)})\b",
        lambda match: f"{match[1]} per {PER[match[2]]}",
    ),
    rule(rf"\b({'|'.join(CODES)}) ?(?=[0-9])", lambda match: CODES[match[1]]),
    rule(rf"({AMOUNT}) ?({'|'.join(CODES)})\b", lambda match: f"{CODES[match[2]]}{match[1]}"),
    rule(
        rf"(?P<country>\b(?:{'|'.join(COUNTRIES)}))(?P<sign>\$)(?P<amount>{INTEGER}(?:\.[0-9]++)?){SCALE}?(?![0-9])",
        read_money,
    ),
    rule(rf"(?<=[A-Za-z])(?={SIGNS}[0-9.])", " "),  # "US$5"
    rule(rf"(?<=[0-9kKmMbBn]) ?- ?(?={SIGNS}[0-9])", " to "),
    rule(
        rf"({SIGNS})([0-9]{{1,9}}(?:\.[0-9]{{1,2}})?)([kKmMbB]?) ?- ?(?=[0-9])",
        lambda match: f"{match[2]} {SCALES.get(match[3].lower(), '')} to {match[1]}",
    ),
    rule(
        rf"(?P<country>)(?P<sign>{SIGNS}) ?(?P<amount>{INTEGER}(?:\.[0-9]++)?|\.[0-9]++){SCALE}?(?![0-9])", read_money
    ),
    rule(rf"({AMOUNT}) ?¢", read_cents),
    rule(
        r"(?<![\w.,£$€])([0-9]{1,4}\.[0-9]{1,3}(?=[MBb])|[0-9]{1,4}(?=bn))([MB]|bn)\b",
        lambda match: f"{match[1]} {SCALES[match[2].lower()]}",
    ),
    rule(
        rf"(?<![0-9.,£$€])({AMOUNT})([kKmMbB]|bn)(?= (?:{COUNTED})\b)",
        lambda match: f"{match[1]} {SCALES[match[2].lower()]}",
    ),
    rule(rf"{ALONE}(?P<shillings>[0-9]{{1,3}})s\.,? ?(?P<pence>[0-9]{{1,2}})d\b\.?", read_shillings_and_pence),
    rule(
        r"(?:(?<=pounds )|(?<=pounds, )|(?<=pound ))(?P<shillings>[0-9]{1,2})s\b\.?(?P<pence>)",
        read_shillings_and_pence,
    ),
    # "10s." alone is shillings only if its period does not end the sentence, as it does in "in his 20s."
    rule(rf"{ALONE}(?P<shillings>[0-9]{{1,2}})s\.(?= [a-z]|,)(?P<pence>)", read_shillings_and_pence),
    rule(rf"{ALONE}(?P<shillings>)(?P<pence>[0-9]{{1,2}})d\.", read_shillings_and_pence),
)
