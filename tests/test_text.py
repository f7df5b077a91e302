"""The text front end: the published ids, how numbers are read, and what happens to unreadable text."""

import importlib.util
import json
import random
import time
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
from measure_cleaners import disagreements, number_rows, words

from common.errors import UserError
from tacotron2.text import SYMBOLS, clean_text, encode, ids_to_text, left_out, pronunciation, symbol_table, text_to_ids
from tacotron2.text.cleaners import CLEANERS, english_cleaners, to_ascii
from tacotron2.text.roman import roman_value
from tacotron2.text.spelling import cardinal, in_pairs, ordinal
from tacotron2.text.symbols import TYPOGRAPHIC

HERE = Path(__file__).parent
SYMBOL_TO_ID = {symbol: index for index, symbol in enumerate(SYMBOLS)}
GOLDEN = json.loads((HERE / "golden" / "text_ids.json").read_text(encoding="utf-8"))

# The reference reads a number with a thousands separator as a year, "twelve thirty-four"; we do not.
GOLDEN_EXCEPTIONS = {"The number 1,234 is odd?": "the number one thousand two hundred thirty-four is odd?"}


# The symbol table and the published ids


def test_symbol_table_is_the_published_one() -> None:
    assert len(SYMBOLS) == len(set(SYMBOLS)) == 148
    assert "".join(SYMBOLS[:12]) == "_-!'(),.:;? "
    expected = {"_": 0, "-": 1, "!": 2, " ": 11, "A": 12, "Z": 37, "a": 38, "z": 63, "@AA": 64, "@AA0": 65, "@ZH": 147}
    assert {symbol: SYMBOL_TO_ID[symbol] for symbol in expected} == expected
    assert SYMBOLS[64:] == tuple(sorted(SYMBOLS[64:]))


@pytest.mark.parametrize("row", GOLDEN, ids=[row["text"][:30] for row in GOLDEN])
def test_golden_ids_of_the_reference(row: dict[str, Any]) -> None:
    text = row["text"]
    if text in GOLDEN_EXCEPTIONS:
        assert ids_to_text(text_to_ids(text)) == GOLDEN_EXCEPTIONS[text]
        assert text_to_ids(text) != row["ids"]
    else:
        assert text_to_ids(text) == row["ids"]


def test_golden_exceptions_are_all_in_the_golden_file() -> None:
    assert set(GOLDEN_EXCEPTIONS) <= {row["text"] for row in GOLDEN}


# How numbers are read

READINGS = {
    "cardinals": [
        ("2,345", "two thousand three hundred forty-five"),
        ("636,371 matters", "six hundred thirty-six thousand three hundred seventy-one matters"),
        ("101", "one hundred one"),
        ("0", "zero"),
        ("1,2,3", "one,two,three"),
        ("aged 18, weight 165 pounds", "aged eighteen, weight one hundred sixty-five pounds"),
        ("6439 persons", "six thousand four hundred thirty-nine persons"),
        ("-5 degrees", "minus five degrees"),
        ("007", "zero zero seven"),
    ],
    "years": [
        ("in 1842", "in eighteen forty-two"),
        ("In 1800;", "in eighteen hundred;"),
        ("in 1809", "in eighteen oh nine"),
        ("in 2000 and 2005 and 2010", "in two thousand and two thousand five and twenty ten"),
        ("November 22, 1963,", "november twenty-two, nineteen sixty-three,"),
        ("April 24th, 1787", "april twenty-fourth, seventeen eighty-seven"),
        ("22 November 1963", "twenty-two november nineteen sixty-three"),
        ("Nov. 22, '63", "november twenty-two, sixty-three"),
        ("In 626 Assurbanipal died", "in six twenty-six assurbanipal died"),
        ("in 120 days", "in one hundred twenty days"),
        ("about 2250 B.C.", "about twenty-two fifty b.c."),
        ("the 1780 riots", "the seventeen eighty riots"),
        ("1812 prisoners", "one thousand eight hundred twelve prisoners"),
        ("1963-11-22", "nineteen sixty-three, eleven, twenty-two"),
    ],
    "decades": [
        ("the 1960s", "the nineteen sixties"),
        ("the 1930's", "the nineteen thirties"),
        ("the '60s", "the sixties"),
        ("the 1900s", "the nineteen hundreds"),
        ("in his 20s.", "in his twenties."),
    ],
    "ordinals": [
        ("1st, 2nd, 3rd, 4th, 21st", "first, second, third, fourth, twenty-first"),
        ("the 12th and 100th", "the twelfth and one hundredth"),
        ("the 22d of June", "the twenty-second of june"),
    ],
    "money": [
        ("£5", "five pounds"),
        ("£1 and $1", "one pound and one dollar"),
        ("£20,000 worth", "twenty thousand pounds worth"),
        ("£1400,", "fourteen hundred pounds,"),
        ("£2372.", "two thousand three hundred seventy-two pounds."),
        ("£5, 5 shillings", "five pounds, five shillings"),
        ("£3 10s. 6d.", "three pounds ten shillings, six pence"),
        ("10s. a week", "ten shillings a week"),
        ("$21.45", "twenty-one dollars, forty-five cents"),
        ("$0.99 or $.50", "ninety-nine cents or fifty cents"),
        ("$1.01", "one dollar, one cent"),
        ("$5.00.", "five dollars."),
        ("$3,300,000,000", "three billion three hundred million dollars"),
        ("$2.5 million, £3m", "two point five million dollars, three million pounds"),
        ("a $10 bill", "a ten dollar bill"),
        ("$5-$10", "five dollars to ten dollars"),
        ("€20, US$5, 5¢", "twenty euros, five u s dollars, five cents"),
        ("the £ sterling", "the pound sterling"),
    ],
    "signs": [
        ("5%", "five percent"),
        ("4.5% of it", "four point five percent of it"),
        ("what % is it?", "what percent is it?"),
        ("Smith & Wesson", "smith and wesson"),
        ("AT&T", "a t and t"),
        ("&c.", "et cetera"),
        ("2+2=4", "two plus two equals four"),
        ("and/or", "and or"),
        ("98.6°F", "ninety-eight point six degrees fahrenheit"),
    ],
    "decimals and fractions": [
        ("6.5-millimeter", "six point five-millimeter"),
        ("0.25 or .25", "zero point two five or point two five"),
        ("1,234.5", "one thousand two hundred thirty-four point five"),
        (".38-caliber", "thirty-eight-caliber"),
        ("1/2, 3/4, 2/3", "one half, three quarters, two thirds"),
        ("9-1/2 inches", "nine and one half inches"),
        ("3½", "three and one half"),
        ("11/22/1963", "eleven, twenty-two, nineteen sixty-three"),
        ("1.2.3", "one point two point three"),
    ],
    "times": [
        ("12:33 p.m.", "twelve thirty-three p.m."),
        ("10:05", "ten oh five"),
        ("10:00", "ten o'clock"),
        ("10:00 a.m.", "ten a.m."),
        ("1 o'clock", "one o'clock"),
        ("10:30pm", "ten thirty p.m."),
        ("a 10:1 ratio", "a ten to one ratio"),
    ],
    "names and codes": [
        ("No. 5", "number five"),
        ("Nos. 5 and 6", "numbers five and six"),
        ("Exhibit No. 133-A", "exhibit number one thirty-three a"),
        ("No. 2,202,130,462", "number two two zero two one three zero four six two"),
        ("P.O. Box 2915", "p.o. box two nine one five"),
        ("C2766", "c two seven six six"),
        ("VC836", "v c eight three six"),
        ("a B-29", "a b twenty-nine"),
        ("page 249", "page two forty-nine"),
        ("1026 North Beckley", "ten twenty-six north beckley"),
        ("544 Camp Street", "five forty-four camp street"),
        ("3126 Harlandale", "thirty-one twenty-six harlandale"),
        ("3126 Germans", "three thousand one hundred twenty-six germans"),
        ("500 North Beckley", "five hundred north beckley"),
        ("555-1234", "five five five, one two three four"),
    ],
    "ranges and units": [
        ("pages 10-12", "pages ten to twelve"),
        ("1939-1945", "nineteen thirty-nine to nineteen forty-five"),
        ("a 15-minute walk", "a fifteen-minute walk"),
        ("9mm and 10 km", "nine millimeters and ten kilometers"),
        ("6 ft. 2 in. tall", "six feet two inches tall"),
        ("5'10\" tall", "five foot ten tall"),
    ],
    "roman numerals": [
        ("Charles II. was", "charles the second was"),
        ("Nebuchadnezzar III., a native", "nebuchadnezzar the third, a native"),
        ("Henry VIII's wives", "henry the eighth's wives"),
        ("the 16th Charles I.", "the sixteenth charles the first."),
        ("World War II", "world war two"),
        ("Chapter IV", "chapter four"),
        ("the XIX century", "the nineteenth century"),
        ("but Charles I know", "but charles i know"),
        ("Malcolm X", "malcolm x"),
        ("George V. Higgins", "george v. higgins"),
        ("I think, MD, CIVIL MIX", "i think, m d, civil mix"),
    ],
    "abbreviations": [
        ("Dr. Smith and Mrs. Jones", "doctor smith and misess jones"),
        ("St. Paul's", "saint paul's"),
        ("on Elm St. and 5th St.", "on elm street and fifth street"),
        ("Ft. Worth", "fort worth"),
    ],
}


@pytest.mark.parametrize(
    ("written", "spoken"),
    [pytest.param(*case, id=f"{family}: {case[0]}") for family, cases in READINGS.items() for case in cases],
)
def test_english_is_read_as_people_read_it(written: str, spoken: str) -> None:
    assert english_cleaners(written) == spoken


def test_readings_agree_with_a_human_reader() -> None:
    rows = number_rows(HERE / "data" / "ljspeech_numbers.csv")
    assert len(rows) > 700
    assert 1 - len(disagreements(rows)) / len(rows) >= 0.95


def test_agreement_compares_words_only() -> None:
    assert words("At 'eleven:forty-five', A.M.") == ["at", "eleven", "forty", "five", "am"]


def test_spelling_out_of_context() -> None:
    assert [in_pairs(n) for n in ("605", "1000", "1900", "2003")] == [
        "six oh five",
        "one thousand",
        "nineteen hundred",
        "two thousand three",
    ]
    assert ordinal("20") == "twentieth"
    assert cardinal("1,000,000") == "one million"
    assert [roman_value(n) for n in ("I", "IV", "XIX", "XLII", "IIII", "")] == [1, 4, 19, 42, 0, 0]


# Spaces, cleaners, symbols


def test_whitespace_is_collapsed_and_stripped() -> None:
    assert text_to_ids(" \tHello,\n\n world \n") == text_to_ids("hello, world")
    assert text_to_ids('a " b') == text_to_ids("a b")
    assert text_to_ids("hello\n")[-1] == SYMBOL_TO_ID["o"]


@pytest.mark.parametrize("text", ["", " \n\t", '""', "{}", "{ }"])
def test_empty_text_has_no_ids(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert text_to_ids(text) == []


def test_unknown_cleaner_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'englsh_cleaners'.*did you mean 'english_cleaners'"):
        text_to_ids("hello", "englsh_cleaners")
    with pytest.raises(ValueError, match="nope"):
        text_to_ids("", ["english_cleaners", "nope"])


def test_other_cleaners() -> None:
    assert clean_text("Der  Größe", "basic_cleaners") == "der größe"
    assert clean_text("Der  Größe", "transliteration_cleaners") == "der grosse"
    assert clean_text("Größe 2", ["transliteration_cleaners", "english_cleaners"]) == "grosse two"
    assert clean_text("Größe 2", []) == "Größe 2"


def test_decomposed_letters_are_the_same_as_composed_ones() -> None:
    symbols = symbol_table("-' abcdefghijklmnopqrstuvwxyzäöüß")
    decomposed = unicodedata.normalize("NFD", "Über größere Öfen")
    assert len(decomposed) == 20
    assert encode(decomposed, "basic_cleaners", symbols) == encode("Über größere Öfen", "basic_cleaners", symbols)
    assert ids_to_text(text_to_ids(decomposed, "basic_cleaners", symbols), symbols) == "über größere öfen"
    assert clean_text(decomposed, "basic_cleaners") == "über größere öfen"
    assert text_to_ids(decomposed) == text_to_ids("Uber grossere Ofen")
    assert symbol_table("aa\u0308") == symbol_table("aä")
    # a table of an earlier version, which has the mark itself
    marks = symbol_table(" abcdefghijklmnopqrstuvwxyz\u0308")
    assert ids_to_text(text_to_ids("öfen", "basic_cleaners", marks), marks) == "o\u0308fen"


def test_typographic_marks_are_read_as_their_ascii_forms() -> None:
    text = "“It’s” – ‚yes‘ — well… «no» „so“ soft\u00adly, 3\u202f−\u202f2"  # noqa: RUF001
    ids, dropped = encode(text, "basic_cleaners")
    assert ids_to_text(ids) == "it's - 'yes' -- well... no so softly, -"
    assert dropped == ["3", "2"]
    for mark, ascii_form in TYPOGRAPHIC.items():
        assert mark in "«»„‚" or to_ascii(mark) == ascii_form  # noqa: RUF001
    assert text_to_ids("it’s — so…") == text_to_ids("it's -- so...")  # noqa: RUF001
    # a table that has the marks keeps them
    symbols = symbol_table(' abcdefghijklmnopqrstuvwxyz’"')  # noqa: RUF001
    assert ids_to_text(text_to_ids("it’s “so”", "basic_cleaners", symbols), symbols) == 'it’s "so"'  # noqa: RUF001
    assert encode("a – b", "basic_cleaners", symbols).dropped == ["–"]  # noqa: RUF001


def test_only_to_ascii_uses_unidecode() -> None:
    folder = HERE.parent / "tacotron2" / "text"
    uses = [
        line for path in folder.glob("*.py") for line in path.read_text().splitlines() if "import unidecode" in line
    ]
    assert uses == ["    from unidecode import unidecode"]
    assert to_ascii("café £5", keep="£") == "cafe £5"


def test_another_symbol_table() -> None:
    symbols = ["_", " ", "ä", "b"]
    assert text_to_ids("Bä b", "basic_cleaners", symbols) == [3, 2, 1, 3]
    assert ids_to_text([3, 2, 1, 3, 0], symbols) == "bä b"
    assert encode("bäcker {B}", "basic_cleaners", symbols).dropped == ["c", "k", "e", "r", "@B"]


def test_ids_to_text_is_the_inverse() -> None:
    text = "doctor {HH AW1 S}, (a-b): 'c'; d!"
    assert ids_to_text(text_to_ids(text)) == text
    assert ids_to_text([*text_to_ids("a"), 0, 0]) == "a"
    with pytest.raises(ValueError, match="148"):
        ids_to_text([148])
    with pytest.raises(ValueError, match="-1"):
        ids_to_text([-1])


# ARPAbet


def test_arpabet_is_not_cleaned_and_its_case_does_not_matter() -> None:
    expected = [SYMBOL_TO_ID[symbol] for symbol in ("@HH", "@AW1", "@S")]
    assert text_to_ids("{HH AW1 S}") == text_to_ids("{ hh aw1  s }") == expected
    assert text_to_ids("a {HH AW1 S}.") == [SYMBOL_TO_ID["a"], SYMBOL_TO_ID[" "], *expected, SYMBOL_TO_ID["."]]
    assert text_to_ids("a{HH AW1 S}b") == [SYMBOL_TO_ID["a"], *expected, SYMBOL_TO_ID["b"]]
    assert clean_text("Turn {hh aw1 s} {S} 2 ") == "turn {HH AW1 S} {S} two"


@pytest.mark.parametrize(
    ("text", "kept", "dropped"),
    [
        ("a {HH QQ S} b", "a {HH S} b", ["@QQ"]),
        ("a {QQ} b", "a b", ["@QQ"]),
        ("Turn {HH AW1 S", "turn", ["{"]),
        ("Turn {HH AW1 S at five", "turn at five", ["{"]),
        ("{see below", "see below", ["{"]),
        ("{{S} b", "{S} b", ["{"]),
        ("turn} left", "turn left", ["}"]),
    ],
)
def test_invalid_arpabet_is_dropped_with_a_warning(text: str, kept: str, dropped: list[str]) -> None:
    with pytest.warns(UserWarning, match="dropped"):
        ids = text_to_ids(text)
    assert ids_to_text(ids) == kept
    assert encode(text).dropped == dropped


# Unreadable text


@pytest.mark.fault(20)
def test_unknown_characters_are_dropped_warned_about_once_and_listed() -> None:
    text = "smile 😀 <now> ~ 😀"
    assert encode(text).dropped == ["😀", "<", ">", "~"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert ids_to_text(text_to_ids(text)) == "smile now"
        text_to_ids(text)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(set(messages)) == 4
    assert "'😀'" in messages[0]


def test_padding_cannot_be_written_in_a_text() -> None:
    with pytest.warns(UserWarning, match="'_'"):
        assert ids_to_text(text_to_ids("_a_b_ _")) == "a b"
    assert encode("_ a").dropped == ["_"]


def test_quotation_marks_are_dropped_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ids_to_text(text_to_ids('“He said: "no" [twice]”')) == "he said: no twice"


@pytest.mark.fault(20)
def test_a_number_of_400_digits_is_read_digit_by_digit() -> None:
    assert words(clean_text("27" * 200)) == ["two", "seven"] * 200
    assert words(clean_text("$" + "27" * 200)) == [*["two", "seven"] * 200, "dollars"]
    assert words(clean_text("1" + ",000" * 2000)) == ["one"] + ["zero"] * 6000
    assert words(clean_text("1." + "5" * 400)) == ["one", "point", *["five"] * 400]


PATTERNS = [
    "a",
    "1",
    "1 ",
    "1,",
    "1-",
    "1.",
    "1/",
    "$1",
    "£",
    "A",
    "A ",
    "{",
    "{HH ",
    "}",
    "V ",
    "1s. ",
    "No. 1",
    "é",
    " ",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_time_is_linear_in_the_length_of_the_text(pattern: str) -> None:
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text_to_ids((pattern * 10_000)[:10_000])
    assert time.perf_counter() - started < 2  # it takes 0.2 s; a quadratic rule would take tens of seconds


@pytest.mark.fault(20)
def test_no_text_breaks_it() -> None:
    generator = random.Random(0)
    pieces = [*map(chr, range(32, 127)), *"0123456789,,..-:/$£€¥¢°½²–—’“%&{}\t\n\u00a0\u2028٠०𝟘\u0301😀北İßﬁ｛Ⅷ\ud800"]  # noqa: RUF001
    pieces += [
        "No. ",
        "Charles II",
        "HH ",
        "s.",
        "d.",
        "am",
        "{HH AW1 S}",
        "mm",
        "th",
        "1960",
        "box ",
        "million",
        "St.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(1500):
            text = "".join(generator.choice(pieces) for _ in range(generator.randrange(40)))
            ids = text_to_ids(text)
            assert all(0 < index < len(SYMBOLS) for index in ids), text
            assert not any(character in "0123456789%&" for character in ids_to_text(ids).split("{")[0]), text
        for cleaner in CLEANERS:
            for _ in range(300):
                text = "".join(chr(generator.randrange(0x110000)) for _ in range(20))
                assert all(0 < index < len(SYMBOLS) for index in text_to_ids(text, cleaner)), text


def test_english_arpabet() -> None:
    """Words in the dictionary, possessives derived from it, other words as letters; braces are kept."""
    text = "The judge's boss's cats read Caslon's {HH AH0 L OW1} in 1851."
    assert clean_text(text, "english_arpabet") == (
        "{DH AH0} {JH AH1 JH IH0 Z} {B AO1 S IH0 Z} {K AE1 T S} {R EH1 D} caslon's {HH AH0 L OW1} "
        "{IH0 N} {EY0 T IY1 N} {F IH1 F T IY0}-{W AH1 N}."
    )
    ids = text_to_ids("cats", "english_arpabet")
    assert [SYMBOLS[i] for i in ids] == ["@K", "@AE1", "@T", "@S"]


@pytest.mark.filterwarnings("ignore:dropped the character")
@pytest.mark.parametrize("cleaners", ["english_cleaners", "english_arpabet"])
def test_transliterated_braces_are_not_arpabet(cleaners: str) -> None:
    assert "AH0" in clean_text("hello \uff5b{DH AH0} world", cleaners)
    names = [SYMBOLS[i] for i in text_to_ids("a \uff5bcat", cleaners)]
    assert names[-1] in ("t", "@T")


def test_a_missing_dictionary_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pronunciation.dictionary.cache_clear()
    with pytest.raises(UserError, match=r"pip install -e '.\[arpabet\]'"):
        text_to_ids("cats", "english_arpabet")


def test_the_message_names_marks_that_cannot_be_seen() -> None:
    dropped = encode("a\x00 b\u202e ☃").dropped
    assert left_out(dropped).endswith(": \\x00 ☃")
