"""Read units after numbers: "6.5mm", "60 km/h", "50 km²", "a 12 ft ladder"."""

import re

from tacotron2.text.patterns import AMOUNT, Match, Rule, rule, text_after, text_before
from tacotron2.text.spelling import in_pairs

UNITS = {
    "mm": "millimeter", "cm": "centimeter", "km": "kilometer", "kg": "kilogram", "mg": "milligram", "ml": "milliliter",
    "lb": "pound", "lbs": "pound", "oz": "ounce", "yd": "yard", "yds": "yard", "hr": "hour", "hrs": "hour",
    "min": "minute", "mins": "minute", "sec": "second", "secs": "second", "in": "inch", "ft": "foot",
    "mph": "mile per hour", "kHz": "kilohertz", "Hz": "hertz",
    # metric
    "m": "meter", "g": "gram", "l": "liter", "L": "liter", "um": "micrometer", "nm": "nanometer", "ug": "microgram",
    "mcg": "microgram", "mL": "milliliter", "dL": "deciliter", "dl": "deciliter", "cl": "centiliter", "ha": "hectare",
    # time and frequency
    "h": "hour", "s": "second", "ms": "millisecond", "us": "microsecond", "ns": "nanosecond", "MHz": "megahertz",
    "GHz": "gigahertz", "THz": "terahertz", "kph": "kilometer per hour", "bpm": "beat per minute", "fps": "frame per "
    "second", "rpm": "revolution per minute",
    # American and British
    "mi": "mile", "gal": "gallon", "qt": "quart", "tsp": "teaspoon", "tbsp": "tablespoon", "pt": "pint", "pts": "point",
    # data
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "PB": "petabyte",
    "MiB": "mebibyte", "GiB": "gibibyte", "kbps": "kilobit per second", "Mbps": "megabit per second",
    "Gbps": "gigabit per second", "dpi": "dot per inch", "ppm": "part per million", "ppb": "part per billion",
    # electricity, energy, pressure
    "V": "volt", "kV": "kilovolt", "mV": "millivolt", "A": "amp", "mA": "milliamp", "mAh": "milliamp hour",
    "W": "watt", "kW": "kilowatt", "MW": "megawatt", "GW": "gigawatt", "kWh": "kilowatt hour", "MWh": "megawatt hour",
    "kJ": "kilojoule", "kcal": "kilocalorie", "Nm": "newton meter", "kPa": "kilopascal",
    "hPa": "hectopascal", "psi": "pound per square inch", "dB": "decibel", "mmHg": "millimeter of mercury",
}  # fmt: skip
IRREGULAR = {
    "inch": "inches", "foot": "feet", "kilohertz": "kilohertz", "hertz": "hertz", "megahertz": "megahertz",
    "gigahertz": "gigahertz", "terahertz": "terahertz", "revolution": "revolutions",
}  # fmt: skip
PER = {  # after a slash
    "h": "hour", "hr": "hour", "hour": "hour", "s": "second", "sec": "second", "min": "minute", "day": "day",
    "wk": "week", "week": "week", "mo": "month", "month": "month", "yr": "year", "year": "year", "night": "night",
    "person": "person", "user": "user", "unit": "unit", "mile": "mile", "bbl": "barrel", "gal": "gallon",
    "kg": "kilogram", "lb": "pound", "oz": "ounce",
}  # fmt: skip

# Abbreviations that are also words or names are units only in the forms that their lookaheads allow.
_ONLY = {
    "in": r"in(?=\.)",
    "pt": r"pt(?=\.(?! [0-9]))",
    "ha": r"ha(?! ha)\b",
    "m": r"m(?!['.][a-z])\b",
    "s": r"(?:(?<=[0-9] )|(?<=[0-9]\.[0-9])|(?<=[0-9]\.[0-9]{2}))s(?!['.][a-z]|\. [0-9])\b",
    "h": r"h(?!['.][a-z])\b",
    "us": r"us(?! [A-Za-z])\b",
    "A": r"A(?= (?:fuse|current|circuit|breaker))",
    "V": r"V(?! [A-Z0-9]|\.[A-Z])\b",
    "W": r"W(?! [A-Z0-9]|\.[A-Z]|\. [A-Z0-9])\b",
    "pts": r"pts\b",
}
_UNIT = "|".join(_ONLY.get(unit, rf"{unit}\b") for unit in sorted(UNITS, key=len, reverse=True))
_END = r"(?:\.(?![\"')\]]{0,3}(?: [A-Z]|$)))?"  # the period of an abbreviation, not of the sentence
_FRACTION = r"(?<![\w/.,])(?:[0-9]{1,4}[ -])?[0-9]{1,4}/[0-9]{1,4}(?!/)"
_NOT_NOUNS = (
    r"(?:a|above|across|ago|and|apart|are|as|at|away|back|behind|below|beyond|but|by|deep|down|each|every|for|from|had"
    r"|has|high|in|into|is|later|less|long|more|north|of|off|on|or|out|over|past|per|so|south|tall|than|that|the|then"
    r"|thick|to|under|up|was|were|when|which|wide|with)\b"
)


def unit_name(written: str, many: bool) -> str:
    """Return the words of a unit, with the plural before "per" or "of": "miles per hour"."""
    name = UNITS[written]
    if not many:
        return name
    head, *rest = re.split(r"(?= (?:per|of) )", name, maxsplit=1)
    return "".join((IRREGULAR.get(head, head + "s"), *rest))


def is_adjective(match: Match) -> bool:
    """True in "a 12 ft ladder", "the 4x100m relay": an article before the number, and a noun after the unit."""
    if not re.search(r"\b(?:[Aa]n?|[Tt]he) (?:[0-9]{1,4} ?[x×] ?)?$", text_before(match)):
        return False
    return re.match(rf" (?!{_NOT_NOUNS})[a-z]{{3}}", text_after(match)) is not None


def read_unit(match: Match) -> str:
    """Spell the unit and leave the number to later rules: "6.5mm" -> "6.5 millimeters", "7-mm" -> "7-millimeter"."""
    number, hyphen = match["number"], match["hyphen"] or ""
    counts_many = re.search("[ -]", number) is not None if "/" in number else number != "1"  # "1/2" is no plural
    many = counts_many and not hyphen and not is_adjective(match)
    words = unit_name(match["unit"], many)
    if power := match["power"]:
        words = f"{'square' if power[-1] == '2' else 'cubic'} {words}"
    if per := match["per"]:
        words += " per " + {"2": "square ", "3": "cubic "}.get((match["per_power"] or "")[-1:], "")
        words += f"{PER.get(per) or unit_name(per, many=False)}"
    return f"{number}{hyphen or ' '}{words}"


def read_pressure(match: Match) -> str:
    """Read a blood pressure: "BP 120/80" -> "BP one twenty over eighty"."""
    if not match[3] and not re.search(r"\b(?:BP|[Bb]lood pressure)\b[^0-9]{0,20}$", text_before(match)):
        return match[0]
    return f"{in_pairs(match[1])} over {in_pairs(match[2])}{' millimeters of mercury' if match[3] else ''}"


UNIT_RULES: tuple[Rule, ...] = (
    rule(r"([0-9] ?V(?: or| and| at|,) [0-9.]{1,6}) ?A\b", lambda match: f"{match[1]} amps"),  # "Exhibit 5 A" is none
    rule(rf"({AMOUNT} ?(?:{_UNIT})) ?- ?(?={AMOUNT} ?(?:{_UNIT}))", lambda match: f"{match[1]} to "),
    rule(
        rf"([0-9](?: [a-z]{{3,10}}| ?°[CF])?)/({'|'.join(PER)})\b",
        lambda match: f"{match[1]} per {PER[match[2]]}",
    ),
    rule(r"(?<=[a-zL])/(?=[0-9]{1,4}(?:\.[0-9]{1,2})? ?(?:ml|mL|g|kg|L|l|h)\b)", " per "),  # "50mg/5ml"
    rule(rf"({_FRACTION})\"(?= [a-z])", lambda match: f"{match[1]} inch"),
    rule(rf"(?<=\b[Aa] )([0-9]{{1,4}})°(?= (?!{_NOT_NOUNS})[a-z]{{3}})", lambda match: f"{match[1]} degree"),
    rule(r"(?<![\w/.])([0-9]{2,3})/([0-9]{2,3})(?![\w/])( ?mmHg\b)?", read_pressure),
    rule(
        rf"(?P<number>{_FRACTION}|{AMOUNT})(?P<hyphen>-)? ?(?P<unit>{_UNIT})(?:\^?(?P<power>(?<=m)[23]|\^[23])\b)?"
        rf"(?:/(?P<per>{'|'.join(sorted({*PER, *UNITS}, key=len, reverse=True))})"
        rf"(?P<per_power>(?<=m)\^?[23])?(?![A-Za-z0-9]))?{_END}",
        read_unit,
    ),
    rule(
        rf"(?P<number>{AMOUNT}) ?(?P<power>sq|cu)\.? ?(?P<unit>ft|in|mi|m|km|yd)\b\.?",
        lambda match: (
            f"{match['number']} {'square' if match['power'] == 'sq' else 'cubic'} "
            f"{unit_name(match['unit'], match['number'] != '1')}"
        ),
    ),
)
