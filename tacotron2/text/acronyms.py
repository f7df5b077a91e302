"""Read words in capitals: "BBC" letter by letter, "NASA" as a word, and leave those of a headline alone."""

import re

from tacotron2.text.patterns import CONTEXT, Match, Rules, rule, text_after, text_before

# The published checkpoints have learned these as words, from a corpus that has them often.
LEARNED = frozenset({"FBI", "CIA", "FPCC", "IQ", "PRS", "USSR", "WDSU"})
AS_WORDS = {
    "ALT", "BASIC", "BIOS", "CAPTCHA", "COBOL", "COVID", "DOS", "EBITDA", "FAQ", "GIF", "GNU", "GUI", "ISIS",
    "JPEG", "JSON", "LAN", "LASER", "NAFTA", "NASDAQ", "NIMBY", "PIN", "RADAR", "RAM", "ROM", "SAAB", "SCUBA",
    "SIM", "SONAR", "SWAT", "TASER", "TED", "WAN", "WASP", "YOLO", "ZIP",
}  # fmt: skip
AS_LETTERS = {
    "ACLU", "AI", "ASAP", "ASMR", "BYOB", "CEO", "EEOC", "ESPN", "EU", "IBM", "IEEE", "IMHO", "IUPAC", "LGBTQIA",
    "OECD", "UK", "UN", "USA", "USAF", "USPS",
}  # fmt: skip
# Words of up to three letters that writers put in capitals for emphasis. "US", "IT" and "WHO" are names.
SHORT_WORDS = {
    "A", "ACT", "ADD", "AGE", "AGO", "AIR", "ALL", "AM", "AN", "AND", "ANY", "ARE", "ART", "AS", "ASK", "AT", "BAD",
    "BAG", "BAR", "BE", "BED", "BET", "BIG", "BIT", "BOX", "BOY", "BUS", "BUT", "BUY", "BY", "CAN", "CAP", "CAR",
    "CUP", "CUT", "DAD", "DAY", "DID", "DIE", "DO", "DOG", "DRY", "DUE", "EAR", "EAT", "END", "EYE", "FAR", "FEW",
    "FIX", "FLY", "FOR", "FOX", "FUN", "GAS", "GET", "GO", "GOD", "GOT", "GUN", "HAD", "HAS", "HE", "HER", "HEY",
    "HI", "HIM", "HIS", "HIT", "HOT", "HOW", "I", "ICE", "IF", "ILL", "IN", "IS", "ITS", "JOB", "JOY", "KEY", "KID",
    "LAW", "LAY", "LEG", "LET", "LIE", "LIP", "LOT", "LOW", "MAN", "MAP", "MAY", "ME", "MEN", "MET", "MIX", "MOM",
    "MUD", "MY", "NET", "NEW", "NO", "NOD", "NON", "NOR", "NOT", "NOW", "NUT", "OF", "OFF", "OH", "OIL", "OLD",
    "ON", "ONE", "OR", "OUR", "OUT", "OWE", "OWN", "PAY", "PEN", "PET", "POT", "PUT", "RAW", "RED", "RUN", "SAD",
    "SAW", "SAY", "SEA", "SEE", "SET", "SHE", "SIT", "SIX", "SKY", "SO", "SON", "SUN", "TAX", "TEA", "TEN", "THE",
    "TIE", "TIP", "TO", "TOO", "TOP", "TOY", "TRY", "TWO", "UP", "USE", "WAR", "WAS", "WAY", "WE", "WET", "WHY",
    "WIN", "WON", "YES", "YET", "YOU", "ZOO",
}  # fmt: skip
SPOKEN = {
    "PhD": "P H D", "PhDs": "P H D's", "MSc": "M S C", "BSc": "B S C", "iOS": "I O S", "OK": "okay", "Ok": "okay",
    "ok": "okay", "XXL": "double X L", "XXXL": "triple X L",
    "WWI": "World War one", "WWII": "World War two",
}  # fmt: skip

_SHOUTED = re.compile(r"\b[A-Z]{2,}\b")

# How an English syllable may begin and end; a word that begins or ends otherwise is read letter by letter.
_ONSET = (
    "(?:sch|scr|shr|spl|spr|squ|str|thr|bl|br|ch|cl|cr|dr|dw|fl|fr|gh|gl|gn|gr|kl|kn|kr|ph|pl|pr|ps|qu|rh|sc|sh|sk|sl"
    "|sm|sn|sp|st|sv|sw|th|tr|tw|vl|wh|wr|[bcdfghjklmnprstvwxyz])?"
)
_CODA = (
    "(?:[bcdfgklmnpqrstvwxz]|bs|ch|ck|cks|cs|ct|cts|dge|ds|ff|ffs|ft|fts|gh|ght|ghts|gs|ks|lb|ld|lds|lf|lk|lks|ll|lls"
    "|lm|lp|lps|ls|lt|lth|lts|mb|mp|mps|ms|mpt|nch|nc|nd|nds|ng|ngs|nk|nks|nn|ns|nt|nth|nts|ph|ps|pt|pts|rb|rc|rch|rd"
    "|rds|rf|rg|rk|rks|rl|rld|rm|rms|rn|rns|rp|rps|rs|rst|rt|rth|rts|rv|sc|sh|sk|sks|sm|sp|ss|st|sts|tch|th|ths|ts|tt"
    "|ws|wn|wl|x|xt|zz|bt|bts|dn|dst|dth|fs|fth|ghth|gn|gns|hn|lfth|lms|lst|mn|mpts|nct|ncts|ngst|ngth|ngths|nst"
    "|bb|dd|gg|mm|pp|rr|nths|phs|pth|rbs|rnt|rsh|sms|sn|wd|wds|wls|wns|xth)?"
)
_SYLLABLES = re.compile(rf"{_ONSET}[aeiouy]{{1,3}}(?:[bcdfghjklmnpqrstvwxz]{{1,4}}[aeiouy]{{1,3}})*{_CODA}")


def is_pronounceable(word: str) -> bool:
    """Return True if English spelling allows `word`, in any case, to be read as a word: "NATO" but not "HDMI"."""
    return len(word) <= CONTEXT and _SYLLABLES.fullmatch(word.lower()) is not None


def _is_spelled(word: str, headline: bool) -> bool:
    if word in LEARNED or word in AS_WORDS:
        return False
    if word in AS_LETTERS or not re.search("[AEIOUY]", word):
        return True
    if headline:
        return False
    return word not in SHORT_WORDS if len(word) <= 3 else len(word) <= 5 and not is_pronounceable(word)


def _in_headline(match: Match) -> bool:
    """True if the words around, at least two up to the next punctuation, are all in capitals."""
    before, after = text_before(match), text_after(match)
    around = re.split("[,;:.!?]", before)[-1], re.split("[,;:.!?]", after)[0]  # a list of acronyms is no headline
    shouted = sum(len(_SHOUTED.findall(side)) for side in around)
    return shouted >= 2 and not any(re.search("[a-z]", side) for side in around)


def _read(match: Match) -> str:
    if match["spoken"]:
        return SPOKEN[match["spoken"]]
    word, ending = match["word"], match["ending"] or ""
    if not _is_spelled(word, _in_headline(match)):
        return match[0]
    return " ".join(word) + ("'s" if ending else "")


ACRONYM_RULES = Rules(
    rule(r"(?<=\b[A-Z]{3})-(?=[A-Z]\b)", " "),  # "USB-C"
    rule(
        rf"\b(?:(?P<spoken>{'|'.join(SPOKEN)})|(?P<word>(?<!')[A-Z]{{2,40}})(?P<ending>'?s)?)\b(?!'[a-zA-Z]{{2}}|'[rt])",
        _read,
    ),
)


def expand_acronyms(text: str) -> str:
    """Put spaces between the letters of acronyms that are not read as words: "the BBC's" -> "the B B C's".

    Known acronyms are listed. Of the others, up to three letters are read one by one, except short words that are often
    in capitals for emphasis; four or five letters are a word if English spelling allows it, and more always are. In a
    headline, all in capitals, only what has no vowel is an acronym.
    """
    return ACRONYM_RULES.apply(text)
