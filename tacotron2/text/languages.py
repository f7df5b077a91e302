"""What is known of a language besides English: its letters, and how its numbers, signs and abbreviations are read.

A code is one of ISO 639, such as "de", with or without a region, "de-at". LANGUAGES has the letters of some languages;
any other needs data.characters, or data.cleaners=phonemes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import UserError
from tacotron2.text.symbols import PUNCTUATION

ENGLISH = "en"
LATIN = "abcdefghijklmnopqrstuvwxyz"
SYMBOLIC_UNITS = ("km/h", "km", "cm", "mm", "m", "kg", "g", "l", "°C", "°")


@dataclass(frozen=True)
class Rules:
    """How what is not a word is read."""

    minus: str
    comma: str  # of decimals
    point: str  # between digits that are neither thousands nor decimals, as in "version 2.5"
    until: str  # of ranges: "10-12"
    hour: str  # between hour and minutes
    cents: str  # between a currency and its cents; "": nothing
    signs: Mapping[str, str]
    currencies: Mapping[str, tuple[str, str]]  # sign -> (one, several)
    months: str  # from January on
    date: str  # of day, month and year
    units: tuple[str, ...]  # in the order of SYMBOLIC_UNITS
    abbreviations: Mapping[str, str]
    spaced_thousands: bool = False  # "3 500"; "3.500" and "3,5" are read in all these languages
    has_century_years: bool = False  # "1984" is nineteen hundred eighty-four
    decade: str = ""  # the ending of "1990er"
    plural: bool = False  # a number before a word in "s" is before what is counted
    before_noun: tuple[tuple[str, str], ...] = ()  # (ending, ending before what is counted): "uno" -> "un"
    # (pattern, ending): the first group is a number that is read as an ordinal with its last letter replaced by
    # `ending`, if there is one
    ordinals: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Language:
    letters: str  # besides a to z
    marks: str = ""  # besides PUNCTUATION
    rules: Rules | None = field(default=None, repr=False)


def base(code: str) -> str:
    """The language without its region: "pt-br" -> "pt"."""
    return re.split("[-_]", code, maxsplit=1)[0].lower()


def characters(code: str) -> str:
    """The symbols of texts in a language after `language_cleaners`. Raises UserError for a language not listed here."""
    language = LANGUAGES.get(base(code))
    if language is None:
        raise UserError(
            f"data.language={code}: its letters are not known here, only those of {', '.join(LANGUAGES)}; name its "
            "punctuation and lower-case letters with data.characters='...', or use data.cleaners=phonemes"
        )
    return PUNCTUATION + language.marks + LATIN + language.letters


GERMAN = Rules(
    minus="minus", comma="Komma", point="Punkt", until="bis", hour="Uhr", cents="",
    signs={"%": "Prozent", "&": "und", "+": "plus", "=": "gleich", "§": "Paragraf", "@": "at"},
    currencies={"€": ("Euro", "Euro"), "$": ("Dollar", "Dollar"), "£": ("Pfund", "Pfund")},
    months="Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    date="{}. {} {}",
    units=(
        "Kilometer pro Stunde", "Kilometer", "Zentimeter", "Millimeter", "Meter", "Kilogramm", "Gramm", "Liter",
        "Grad Celsius", "Grad",
    ),
    abbreviations={
        "Dr.": "Doktor", "Prof.": "Professor", "Hr.": "Herr", "Fr.": "Frau", "St.": "Sankt", "Nr.": "Nummer",
        "z. B.": "zum Beispiel", "z.B.": "zum Beispiel", "d. h.": "das heißt", "d.h.": "das heißt",
        "u. a.": "unter anderem", "u.a.": "unter anderem", "o. ä.": "oder ähnliches", "v. Chr.": "vor Christus",
        "n. Chr.": "nach Christus", "usw.": "und so weiter", "bzw.": "beziehungsweise", "ca.": "zirka",
        "evtl.": "eventuell", "ggf.": "gegebenenfalls", "vgl.": "vergleiche",
        "Str.": "Straße", "Mio.": "Millionen", "Mrd.": "Milliarden",
    },
    has_century_years=True,
    decade="er",
    before_noun=(("eins", "ein"),),
    ordinals=(
        (r"(?<=\b[AaIi]m) ([0-9]{1,3})\.(?= [^\W\d_])", "en"),
        (r"(?<=\b(?:[Vv]om|[Zz]um|[Dd]em|[Dd]en|[Dd]es|[Bb]is)) ([0-9]{1,3})\.(?= [^\W\d_])", "en"),
        (r"(?<=\b[Dd](?:er|ie|as)) ([0-9]{1,3})\.(?= [^\W\d_])", "e"),
        (r"(?<![\w.,])([0-9]{1,3})\.(?= (?:Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November"
         r"|Dezember|Jahrhundert|Weltkrieg|Kapitel|Stock)\b)", "er"),
    ),
)  # fmt: skip

SPANISH = Rules(
    minus="menos", comma="coma", point="punto", until="a", hour="y", cents="con",
    signs={"%": "por ciento", "&": "y", "+": "más", "=": "igual a", "@": "arroba"},
    currencies={"€": ("euro", "euros"), "$": ("dólar", "dólares"), "£": ("libra", "libras")},
    months="enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    date="{} de {} de {}",
    units=(
        "kilómetros por hora", "kilómetros", "centímetros", "milímetros", "metros", "kilogramos", "gramos", "litros",
        "grados Celsius", "grados",
    ),
    abbreviations={
        "Sr.": "señor", "Sra.": "señora", "Srta.": "señorita", "Dr.": "doctor", "Dra.": "doctora", "D.": "don",
        "Ud.": "usted", "Uds.": "ustedes", "Vd.": "usted", "EE. UU.": "Estados Unidos", "EE.UU.": "Estados Unidos",
        "p. ej.": "por ejemplo", "etc.": "etcétera", "núm.": "número", "pág.": "página", "a. C.": "antes de Cristo",
        "d. C.": "después de Cristo",
    },
    plural=True,
    before_noun=(("veintiuno", "veintiún"), ("uno", "un")),
    ordinals=((r"\b([0-9]{1,3})\.?º", ""), (r"\b([0-9]{1,3})\.?ª", "a")),
)  # fmt: skip

FRENCH = Rules(
    minus="moins", comma="virgule", point="point", until="à", hour="heures", cents="",
    signs={"%": "pour cent", "&": "et", "+": "plus", "=": "égale", "@": "arobase"},
    currencies={"€": ("euro", "euros"), "$": ("dollar", "dollars"), "£": ("livre", "livres")},
    months="janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    date="{} {} {}",
    units=(
        "kilomètres heure", "kilomètres", "centimètres", "millimètres", "mètres", "kilogrammes", "grammes", "litres",
        "degrés Celsius", "degrés",
    ),
    abbreviations={
        "M.": "monsieur", "MM.": "messieurs", "Mme": "madame", "Mmes": "mesdames", "Mlle": "mademoiselle",
        "Dr": "docteur", "St": "saint", "Ste": "sainte", "etc.": "et cetera", "c.-à-d.": "c'est-à-dire",
        "p. ex.": "par exemple", "av. J.-C.": "avant Jésus-Christ", "apr. J.-C.": "après Jésus-Christ",
    },
    spaced_thousands=True,
    ordinals=((r"\b(1)er\b", ""), (r"\b(1)(?:re|ère)\b", "ère"), (r"\b([0-9]{1,3})(?:e|ème|eme)\b", "")),
)  # fmt: skip

ITALIAN = Rules(
    minus="meno", comma="virgola", point="punto", until="a", hour="e", cents="e",
    signs={"%": "per cento", "&": "e", "+": "più", "=": "uguale", "@": "chiocciola"},
    currencies={"€": ("euro", "euro"), "$": ("dollaro", "dollari"), "£": ("sterlina", "sterline")},
    months="gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
    date="{} {} {}",
    units=(
        "chilometri all'ora", "chilometri", "centimetri", "millimetri", "metri", "chilogrammi", "grammi", "litri",
        "gradi Celsius", "gradi",
    ),
    abbreviations={
        "Sig.": "signor", "sig.": "signor", "Sig.ra": "signora", "sig.ra": "signora", "Dott.": "dottor",
        "dott.": "dottor", "Prof.": "professor", "prof.": "professor", "ecc.": "eccetera", "a.C.": "avanti Cristo",
        "d.C.": "dopo Cristo", "es.": "esempio",
    },
    before_noun=(("uno", "un"),),
    ordinals=((r"\b([0-9]{1,3})[º°](?![CF ])", ""), (r"\b([0-9]{1,3})ª", "a")),
)  # fmt: skip

PORTUGUESE = Rules(
    minus="menos", comma="vírgula", point="ponto", until="a", hour="e", cents="e",
    signs={"%": "por cento", "&": "e", "+": "mais", "=": "igual a", "@": "arroba"},
    currencies={
        "R$": ("real", "reais"), "€": ("euro", "euros"), "$": ("dólar", "dólares"), "£": ("libra", "libras"),
    },
    months="janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro",
    date="{} de {} de {}",
    units=(
        "quilômetros por hora", "quilômetros", "centímetros", "milímetros", "metros", "quilogramas", "gramas", "litros",
        "graus Celsius", "graus",
    ),
    abbreviations={
        "Sr.": "senhor", "Sra.": "senhora", "Dr.": "doutor", "Dra.": "doutora", "Prof.": "professor",
        "Profa.": "professora", "etc.": "etcétera", "p. ex.": "por exemplo", "a.C.": "antes de Cristo",
        "d.C.": "depois de Cristo",
    },
    ordinals=((r"\b([0-9]{1,3})\.?º", ""), (r"\b([0-9]{1,3})\.?ª", "a")),
)  # fmt: skip

DUTCH = Rules(
    minus="min", comma="komma", point="punt", until="tot", hour="uur", cents="",
    signs={"%": "procent", "&": "en", "+": "plus", "=": "is", "@": "apenstaartje"},
    currencies={"€": ("euro", "euro"), "$": ("dollar", "dollar"), "£": ("pond", "pond")},
    months="januari februari maart april mei juni juli augustus september oktober november december",
    date="{} {} {}",
    units=(
        "kilometer per uur", "kilometer", "centimeter", "millimeter", "meter", "kilogram", "gram", "liter",
        "graden Celsius", "graden",
    ),
    abbreviations={
        "dhr.": "de heer", "mevr.": "mevrouw", "dr.": "dokter", "prof.": "professor", "bijv.": "bijvoorbeeld",
        "bv.": "bijvoorbeeld", "enz.": "enzovoort", "d.w.z.": "dat wil zeggen", "o.a.": "onder andere", "nr.": "nummer",
        "v.Chr.": "voor Christus", "n.Chr.": "na Christus",
    },
    has_century_years=True,
    ordinals=((r"\b([0-9]{1,3})(?:ste|de|e)\b", ""),),
)  # fmt: skip

LANGUAGES: Mapping[str, Language] = {
    "de": Language("äöüß", rules=GERMAN),
    "es": Language("áéíñóúü", "¿¡", SPANISH),
    "fr": Language("àâæçèéêëîïôœùûüÿ", rules=FRENCH),
    "it": Language("àèéìîòóù", rules=ITALIAN),
    "pt": Language("àáâãçéêíóôõú", rules=PORTUGUESE),
    "nl": Language("àáèéëíïóöúü", rules=DUTCH),
    "sv": Language("åäöé"),
    "da": Language("æøåé"),
    "nb": Language("æøåéèêóòô"),
    "no": Language("æøåéèêóòô"),
    "fi": Language("äöåšž"),
    "pl": Language("ąćęłńóśźż"),
    "cs": Language("áčďéěíňóřšťúůýž"),
    "hu": Language("áéíóöőúüű"),
}
