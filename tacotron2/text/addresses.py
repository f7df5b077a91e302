"""Read postal addresses: streets, directions, American states and ZIP codes, British postcodes."""

from tacotron2.text.patterns import Match, Rules, rule
from tacotron2.text.spelling import DIGIT_WORDS, digit_by_digit

STREETS = {
    "Rd": "Road", "Ln": "Lane", "Blvd": "Boulevard", "Pkwy": "Parkway", "Sq": "Square", "Ave": "Avenue",
    "Hwy": "Highway", "Ter": "Terrace", "Cir": "Circle", "Trl": "Trail",
}  # fmt: skip
DIRECTIONS = {
    "N": "North", "S": "South", "E": "East", "W": "West",
    "NE": "Northeast", "NW": "Northwest", "SE": "Southeast", "SW": "Southwest",
}  # fmt: skip
STATES = {
    "AL": "Alabama", "AK": "Alaska", "AZ": "Arizona", "AR": "Arkansas", "CA": "California", "CO": "Colorado",
    "CT": "Connecticut", "DE": "Delaware", "DC": "D C", "FL": "Florida", "GA": "Georgia", "HI": "Hawaii",
    "ID": "Idaho", "IL": "Illinois", "IN": "Indiana", "IA": "Iowa", "KS": "Kansas", "KY": "Kentucky",
    "LA": "Louisiana", "ME": "Maine", "MD": "Maryland", "MA": "Massachusetts", "MI": "Michigan", "MN": "Minnesota",
    "MS": "Mississippi", "MO": "Missouri", "MT": "Montana", "NE": "Nebraska", "NV": "Nevada", "NH": "New Hampshire",
    "NJ": "New Jersey", "NM": "New Mexico", "NY": "New York", "NC": "North Carolina", "ND": "North Dakota",
    "OH": "Ohio", "OK": "Oklahoma", "OR": "Oregon", "PA": "Pennsylvania", "RI": "Rhode Island",
    "SC": "South Carolina", "SD": "South Dakota", "TN": "Tennessee", "TX": "Texas", "UT": "Utah", "VT": "Vermont",
    "VA": "Virginia", "WA": "Washington", "WV": "West Virginia", "WI": "Wisconsin", "WY": "Wyoming",
}  # fmt: skip
# After a city, but without a ZIP code, these are more often something else: "Yes, OK.", "Smith, MD", "Jones, MA".
WITH_ZIP_ONLY = ("AL", "HI", "ID", "IN", "LA", "MA", "MD", "ME", "MS", "OH", "OK", "OR", "PA")
LABELS = {  # before a number
    "Apt": "Apartment", "Bldg": "Building", "Hwy": "Highway", "Rte": "Route", "Fig": "Figure", "Figs": "Figures",
    "Ch": "Chapter", "Vol": "Volume", "Tel": "Telephone", "Ext": "Extension", "Sec": "Section", "Eq": "Equation",
    "Ste": "Suite", "Rm": "Room",
    "pp": "pages", "p": "page", "pg": "page", "ext": "extension", "fig": "figure", "vol": "volume", "tel": "telephone",
    "ca": "circa",
}  # fmt: skip

_STREET = "|".join(STREETS)
_TYPE = "Street|Avenue|Road|Lane|Boulevard|Parkway|Square|Drive|Place|Way|Court"
_ALONE = "|".join(code for code in STATES if code not in WITH_ZIP_ONLY)


def read_postcode(match: Match) -> str:
    """Read a British postcode character by character: "NW1 6XE" -> "N W one six X E"."""
    return " ".join(DIGIT_WORDS[int(mark)] if mark.isdecimal() else mark for mark in match[0] if mark != " ")


ADDRESS_RULES = Rules(
    rule(
        rf"(?<=, )({'|'.join(STATES)}) ([0-9]{{5}})(?:-([0-9]{{4}}))?(?![\w-])",
        lambda match: (
            f"{STATES[match[1]]} {digit_by_digit(match[2])}" + (f", {digit_by_digit(match[3])}" if match[3] else "")
        ),
    ),
    rule(rf"(?<=[a-z], )({_ALONE})(?=[.,;:)!?]|$)", lambda match: STATES[match[1]]),
    rule(rf"(?<=\()([RDI])-({'|'.join(STATES)})(?=\))", lambda match: f"{match[1]} {STATES[match[2]]}"),
    rule(r"\b[A-Z]{1,2}[0-9][0-9A-Z]? [0-9][A-Z]{2}\b", read_postcode),
    rule(rf"\b([A-Z][a-z']+|[0-9]+(?:st|nd|rd|th)) ({_STREET})\b\.?", lambda match: f"{match[1]} {STREETS[match[2]]}"),
    rule(r"(?<![\w.])([0-9]{1,6} (?:[A-Z][a-z']+ ){1,2})Dr\b\.?(?=[,;]|$)", lambda match: f"{match[1]}Drive"),
    rule(r"\b([A-Z][a-z']+|[0-9]+(?:st|nd|rd|th)) St(?=[,;]|$)", lambda match: f"{match[1]} Street"),
    rule(r"(?<=[0-9] )([NSEW])\.? (?=[A-Z][a-z]|[0-9]{1,3}(?:st|nd|rd|th))", lambda match: f"{DIRECTIONS[match[1]]} "),
    rule(rf"\b({_TYPE}) ([NS][EW]?|[EW])\b(?!')\.?", lambda match: f"{match[1]} {DIRECTIONS[match[2]]}"),
    rule(r"(?<=[0-9](?:st|nd|rd|th) )Fl\b\.?", "Floor"),
    rule(rf"\b({'|'.join(LABELS)})\.:? ?(?=[0-9+(])", lambda match: f"{LABELS[match[1]]}{':' * (':' in match[0])} "),
    rule(r"\b(Apt|Bldg|Hwy|Tel|Ext)(?=:? [0-9+(])", lambda match: LABELS[match[1]]),
    rule(r"\b(Vol|Ch|Fig)\. (?=[IVX]+\b)", lambda match: f"{LABELS[match[1]]} "),
    rule(r"\bNo\. (?=[A-Z]{1,4}-?[0-9])", "number "),
    rule(r"\bc\. ?(?=[0-9]{3,4}\b)", "circa "),  # "31 George III. c. 46" is a chapter
    rule(r"\bc/o\b", "care of"),
    rule(r"\bw/o\b", "without"),
    rule(r"\bw/ ?(?=[\w$£€])", "with "),
    rule(r"\b[Aa]pprox\b\.?", "approximately"),
    rule(r"\b(Mr|Mrs|Dr|Prof)(?= [A-Z][a-z])", lambda match: f"{match[1]}."),
    rule(r"\bAttn\b[.:]?", "Attention"),
    rule(r"((?:^|[,;(] |\b[a-z]{1,20} ))St (?=[A-Z][a-z])", lambda match: f"{match[1]}Saint "),
    rule(r"\bCtrl\b", "Control"),
)


def expand_addresses(text: str) -> str:
    """Write out the abbreviations of addresses, and others that a number after them identifies."""
    return ADDRESS_RULES.apply(text)
