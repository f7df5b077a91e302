"""How written English of many genres is read, what cannot be read, and a user's lexicon."""

import random
import sys
import threading
import time
import unicodedata
from pathlib import Path

import pytest

from common.errors import UserError
from tacotron2.text import SYMBOLS, Lexicon, clean_text, encode, ids_to_text
from tacotron2.text.acronyms import is_pronounceable
from tacotron2.text.cleaners import CLEANERS, english_cleaners, to_ascii
from tacotron2.text.maths import UNREAD

READINGS = Path(__file__).parent / "data" / "readings.tsv"

# Lines of readings.tsv that are read otherwise: a postal code without a state looks like a count, a unit before a noun
# is singular only after an article, and "c." is not only a cup.
KNOWN_DIFFERENCES = {"12 rue de Rivoli, 75001 Paris", "Berlin 10117", "12 V battery", "1 c. sugar"}


def readings() -> list[tuple[str, str]]:
    """(written, reading) of each line that is not a comment. Written forms may start with "#"."""
    lines = READINGS.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines if line and not line.startswith("# ")]
    return [(written, reading) for written, reading in pairs]


def test_other_genres_are_read_as_a_newsreader_reads_them() -> None:
    rows = readings()
    assert len(rows) >= 300
    assert len({written for written, _ in rows}) == len(rows)
    different = {written for written, reading in rows if clean_text(written).replace('"', "") != reading}
    assert different == KNOWN_DIFFERENCES
    assert len(KNOWN_DIFFERENCES) <= 10


def test_what_is_read_is_what_the_symbols_hold() -> None:
    for written, reading in readings():
        ids, dropped = encode(written)
        assert dropped == [], written
        assert ids_to_text(ids) == reading or written in KNOWN_DIFFERENCES


@pytest.mark.parametrize("text", ["NASA", "NATO", "UNESCO", "john", "craftsmen", "beautiful", "twelfth", "scratched"])
def test_pronounceable(text: str) -> None:
    assert is_pronounceable(text)


@pytest.mark.parametrize("text", ["HDMI", "NAACP", "UNHCR", "HTML", "JPG", "NCAA", ""])
def test_not_pronounceable(text: str) -> None:
    assert not is_pronounceable(text)


def test_words_that_checkpoints_have_learned_stay_as_they_are() -> None:
    text = "the FBI's files, the CIA and an IQ of 118 in the USSR"
    assert english_cleaners(text) == "the fbi's files, the cia and an iq of one eighteen in the ussr"
    assert english_cleaners("J. D. Tippit of the U.S. Army, i.e. a policeman") == (
        "j. d. tippit of the u.s. army, i.e. a policeman"
    )


# Of each rule, what almost matches again and again.
REPEATED = [
    "a.", "a-", "a_", "a/", "A/", "a@", "a@b.", "www.", "http://", "/", "./", "~/", "C:\\", "a.b-", ":", "1:1", "1:11-",
    "1x", "1 x ", "x", "^1", "1 <", "<", "~", "Mon-", "Jan ", "12h 1m", "+1 ", "(1", "5'", "12' x 1", "A1 ", "1 m",
    "1/1 ", "a 1 m ", "NW1 6X", "Main ", "1 Aa ", "Aa St ", ", NY ", "US$1", "NASA ", "A'", "'s", "MCM", "XIV ", "×",
    "²", "☃", "1.1.", "v1.1.", "Python 1.", "#a", "a.md", "1 - 1 ", "1 am-", "0000 ", "1e1", "0x", "USB-", "1-",
]  # fmt: skip


@pytest.mark.parametrize("pattern", REPEATED)
def test_time_is_linear_for_almost_matches(pattern: str) -> None:
    started = time.perf_counter()
    english_cleaners((pattern * 10_000)[:10_000])
    assert time.perf_counter() - started < 2  # as in test_text.py: it takes 0.1 s, a quadratic rule tens of seconds


@pytest.mark.fault(20)
def test_any_character_is_read_or_listed() -> None:
    """A character that leaves nothing in the ids is in `dropped`, or has no sound: marks, spaces, formats."""
    generator = random.Random(0)
    for code in [*range(0x20, 0x3000), *(generator.randrange(0x3000, sys.maxunicode + 1) for _ in range(3000))]:
        character = unicodedata.normalize("NFC", chr(code))
        ids, dropped = encode(f"a {character} b")
        silent = unicodedata.category(character[0]) in ("Mn", "Me", "Mc", "Cf", "Zs", "Zl", "Zp", "Cc")
        if not dropped and not silent and character not in UNREAD and to_ascii(character).strip('"[] '):
            assert len(ids) > len("a b"), hex(code)


@pytest.mark.fault(20)
def test_symbols_that_cannot_be_read_are_listed_for_each_cleaner() -> None:
    for cleaners in CLEANERS:
        assert encode("snow ☃ here", cleaners).dropped == ["☃"]
        assert encode("I ❤️ it 👍🏽", cleaners).dropped == ["❤", "👍", "🏽"]  # without the variation selector
    assert clean_text("Москва, 北京") == "moskva, bei jing"
    assert encode("Москва").dropped == []


def test_a_stress_that_the_table_lacks_is_replaced() -> None:
    without = ["_", " ", "@AH", "@HH"]
    assert encode("{HH AH0} {HH AH1}", symbols=without).ids == [3, 2, 1, 3, 2]
    assert encode("{AH} {AH2}", symbols=["_", " ", "@AH0", "@AH1"]).ids == [3, 1, 3]
    assert encode("{EY1}", symbols=without).dropped == ["@EY1"]


# The lexicon


def lexicon(tmp_path: Path, text: str) -> Lexicon:
    path = tmp_path / "lexicon.txt"
    path.write_text(text, encoding="utf-8")
    return Lexicon.load(path)


def test_lexicon(tmp_path: Path) -> None:
    words = lexicon(
        tmp_path,
        "\ufeff# a comment\r\nGIF jif\nNguyen\t{w ih1 n}\nnew delhi\tnoo  delly\n"
        "New York City\tn y c\nNew York\tnoo york\n"
        "C++ see plus plus\n😀 smiling\nPolish\tpohlish\npolish\tpollish\ncan kan\nAlex {AE L AH K S}\nbad {B} ad\n",
    )
    assert len(words) == 12
    for text, reading in {
        "A GIF, GIFs, the GIF's gif": "a jif, jifs, the jif's gif",
        "Dr. Nguyen’s $5; NGUYEN'S": "doctor {W IH1 N Z} five dollars; {W IH1 N Z}",  # noqa: RUF001
        "NEW  DELHI'S": "noo delly's",
        "New York City, New York": "n y c, noo york",
        "C++ or C": "see plus plus or c",
        "hi 😀": "hi smiling",
        "Polish polish POLISH": "pohlish pollish pohlish",
        "Can can't CAN canned": "kan can't kan canned",
        "Alex's": "{AE L AH K S IH Z}",
        "bad": "{B} ad",
        "{AE1} GIF-like _GIF_ toGIF": "{AE1} jif-like _gif_ togif",
    }.items():
        assert clean_text(text, lexicon=words) == reading
    assert encode("hi 😀", lexicon=words).dropped == []
    ids = encode("a GIF", lexicon=words).ids
    assert ids == encode("a jif").ids
    assert encode("Nguyen", "basic_cleaners", lexicon=words).ids == [SYMBOLS.index(f"@{s}") for s in ("W", "IH1", "N")]


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("word {HH QQ}", ["unknown ARPAbet symbol 'QQ'", "near it"]),
        ("word {AH3}", ["'AH3'", "AH0", "AH1"]),
        ("word {HH AW1 S", ["brace", "{HH AH0 L OW1}"]),
        ("word HH AW1 S", ["put it in braces: {HH AW1 S}"]),
        ("word", ["'word' has no reading"]),
        ("GIF\tgif\n\nGIF\tjif", ["line 2", "remove one", ":4:"]),
        ("{a}\tb", ["braces"]),
        (" ".join("a" * 50) + "\tb", ["1 to 40"]),
    ],
)
@pytest.mark.fault(20)
def test_a_bad_lexicon_is_named_with_its_line(tmp_path: Path, line: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        lexicon(tmp_path, f"# comment\n{line}\n")
    assert f"{tmp_path / 'lexicon.txt'}:" in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_a_missing_lexicon_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lexicon .*no\.txt"):
        Lexicon.load(tmp_path / "no.txt")


def test_a_large_lexicon_is_fast_and_shared_by_threads() -> None:
    words = Lexicon({f"word{k}": f"reading {k}" for k in range(20_000)})
    text = " ".join(f"word{k}" for k in range(20_000)) + "{" * 20_000 + "'" * 20_000
    expected = words.apply(text)
    assert expected.startswith("reading 0 reading 1 ")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(words.apply(text))) for _ in range(4)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert time.perf_counter() - started < 10  # it takes 0.5 s


def test_no_text_breaks_a_lexicon() -> None:
    generator = random.Random(0)
    words = Lexicon({"a": "b", "a b": "c", "'": "quote", "s": "t", "A's": "{Z}", "S": "{S}"})
    pieces = [*"aAsS'’ {}\n\u0301_1", "{S}"]  # noqa: RUF001
    for _ in range(2000):
        text = "".join(generator.choice(pieces) for _ in range(12))
        assert isinstance(encode(text, lexicon=words).ids, list)
