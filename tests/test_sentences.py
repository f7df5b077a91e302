"""A text is cut into pieces that a reader would defend, in any chunks, and whatever it contains."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence

import pytest
import sentencex

from common.errors import UserError
from synthesis.reader import Reader
from synthesis.sentences import LAST_WINDOW, MAX_GAP, Pauses, Piece, Splitter, split
from tacotron2.text import SYMBOLS
from tests.helpers import REPOSITORY

LONG = 200  # symbols: none of the sentences below is cut
# Pieces are separated by the marks that name their pauses: | sentence, ¶ paragraph, / clause, ~ dash, _ none.
PAUSES = {"|": "sentence", "¶": "paragraph", "/": "clause", "~": "dash", "_": "none"}

SENTENCES = {
    "abbreviations": [
        "Dr. Smith met Mrs. Jones at St. Mary's.|They talked.",
        "We left at 5 p.m. on Monday.|It rained.",
        "We left at 5 p.m.|Then it rained.",
        "Use a tool, e.g. a saw, i.e. one with teeth.|Then stop.",
        "He works for Acme Inc. in Boston.|She does not.",
        "Lions, tigers, etc. are cats.|Dogs are not.",
        "The U.S. Army came.|It left.",
        "See Fig. 3 and No. 5 on p. 12.|They are clear.",
        "J. R. R. Tolkien wrote it.|So did C. S. Lewis.",
        "Mr. and Mrs. A. B. Carter live here.|Do they?",
        "She has a Ph.D. in physics.|He has none.",
        "Jan. 5 was cold.|Feb. 6 was not.",
    ],
    "numbers": [
        "It costs $3.50 today.|Tomorrow it costs 4.",
        "Pi is 3.14159.|It goes on.",
        "Version 2.0.1 is out.|Get it.",
        "It grew by 1,234.5 percent.|Nobody knew why.",
        "At 10.30 a.m. it was 21.5 degrees.|It felt like 25.",
        "He was born in 1905.|In 1950 he died.",
        "The score was 3.|We lost.",
    ],
    "questions and exclamations": [
        "Really?!|No!!!|Yes.",
        "What?|When?|Where?",
        "Stop!|Who goes there?",
        "Is it you?|Yes, it is.",
    ],
    "ellipses": [
        "She left...|Then he left.",
        "She left... and came back.|He did not.",
        "Wait . . .|Then go.",
        "Well… maybe.|Or not.",
        "...And so it ends.|Goodbye.",
    ],
    "quotations": [
        '"Really?" he asked.|"Yes."|She left.',
        "“Really?” he asked.|“Yes.”|She left.",
        '"I came," he said, "and I saw."|Then he left.',
        "“I came,” he said.|“I saw.”|“I won.”",
        "He called it \u2018the end.\u2019|It was.",
        'He said "no."|She said "yes."',
        '"Stop!" she cried.|"You cannot go there!"',
        "“Go away. Now.” and he left.",
        "«Oui?» he asked.|«Non.»",
        "He wrote 'so what?' in the margin.|Nobody answered.",
    ],
    "brackets": [
        "He came (it was late.) and slept.|She did not.",
        "He slept.|(She did not.)|It was late.",
        "The sum (see p. 3) is wrong.|Correct it.",
        "It ended (finally!).|We went home.",
    ],
    "addresses": [
        "See http://example.com/a.b?c=d.e for more.|Then write.",
        "See https://www.example.org/index.html.|It is long.",
        "Write to first.last@example.co.uk today.|We answer.",
        "Mail a.b@example.com.|Do not call.",
        "Open example.com or www.example.net!|Both work.",
        "Edit main.py and setup.cfg.|Then run it.",
    ],
    "dialogue with dashes": [
        "— Hello, he said.|— How are you?|— Fine.",
        "- Who is it?|- It is me.",
        "I was—well, late.|He was not.",
        "It is over — at last.|Now what?",
    ],
    "paragraphs": [
        "One.¶Two.|Three.¶Four.",
        "A heading¶The text of it.|More text.",
        "No mark at the end¶Another paragraph",
    ],
    "other languages": ["今日は。|元気ですか\uff1f|はい。", "Это так.|Правда?", "Ça va?|Oui."],
}

LAYOUTS = [  # (text, its pieces)
    ("One.\r\n\r\nTwo.", ["One.¶", "Two."]),
    ("One.\r\rTwo.", ["One.¶", "Two."]),
    ("One.\n \t\nTwo.", ["One.¶", "Two."]),
    ("One.\u2029\u2029Two.", ["One.¶", "Two."]),
    ("A line that is broken because it is\nfull, as in Letters.\nThe end of it.",
     ["A line that is broken because it is\nfull, as in Letters.|", "The end of it."]),
    ("It was broken after the name of Mr. Smith and\nMrs. Jones, who were there.\r\nThey left.",
     ["It was broken after the name of Mr. Smith and\nMrs. Jones, who were there.|", "They left."]),
    ("Buy this:\n- milk\n- bread, and butter\n- Eggs\n\nThen cook.",
     ["Buy this:|", "- milk|", "- bread, and butter|", "- Eggs¶", "Then cook."]),
    ("1. Wash.\n2. Cut them. Then cook.\n3) Eat", ["1. Wash.|", "2. Cut them.|", "Then cook.|", "3) Eat"]),
    ("• one\n• two", ["• one|", "• two"]),
    ("(a) first of them\n(b) second of them", ["(a) first of them|", "(b) second of them"]),
    ("# The heading\nThe text.", ["# The heading|", "The text."]),
    ("The heading\n===========\nThe text.", ["The heading|", "===========|", "The text."]),
    ("CHAPTER I\nIt was late.", ["CHAPTER I|", "It was late."]),
    ("Anna Bell\n12 High Street\nLondon", ["Anna Bell|", "12 High Street|", "London"]),
    ("Roses are red,\nViolets are blue.", ["Roses are red,\nViolets are blue."]),
    ("I wandered lonely\nas a cloud.", ["I wandered lonely\nas a cloud."]),
    ("It was written in the year 1954 by J.\nR. Tolkien.", ["It was written in the year 1954 by J.\nR. Tolkien."]),
    ("It is {HH AH0 L OW1} or {B AY1}. Yes.", ["It is {HH AH0 L OW1} or {B AY1}.|", "Yes."]),
    ("Before." + " " * 500 + "After it.", ["Before.|", "After it."]),
    ("no mark" + " " * 500 + "after it", ["no mark_", "after it"]),
    ("One.\u200f Two.\u202e Three.", ["One.\u200f|", "Two.\u202e|", "Three."]),
    ("\ufeffOne. Two\u00ad.", ["\ufeffOne.|", "Two\u00ad."]),
    ("One\x00. Two\x00.", ["One\x00.|", "Two\x00."]),
    ("One \ud800. Two.", ["One \ud800.|", "Two."]),
    ("   \n One. \n  ", ["One."]),
]  # fmt: skip

CLAUSES = [  # (limit, text, its pieces)
    (60, "It was the best of times, it was the worst of times; it was the age of wisdom, it was the age of folly.",
     ["It was the best of times, it was the worst of times;/", "it was the age of wisdom, it was the age of folly."]),
    (50, "It was the age of wisdom — it was, they said, the age of foolishness.",
     ["It was the age of wisdom —~", "it was, they said, the age of foolishness."]),
    (50, "It was the age of wisdom—it was the age of all the foolishness.",
     ["It was the age of wisdom—~", "it was the age of all the foolishness."]),
    (50, "He looked for the key in all of the rooms and he found nothing at all there.",
     ["He looked for the key in all of the rooms_", "and he found nothing at all there."]),
    (50, "the man that was seen near the house which stood on the hill is gone",
     ["the man that was seen near the house_", "which stood on the hill is gone"]),
    (45, "The man (who had been there before the war) left it then.",
     ["The man (who had been there before the war)/", "left it then."]),
    (40, "He counted seventeen and Mr. Smith counted eighteen.",
     ["He counted seventeen_", "and Mr. Smith counted eighteen."]),
    (10, "{HH AH0 L OW1 W ER1 L D} {HH AH0 L OW1 W ER1 L D}",
     ["{HH AH0 L OW1 W ER1 L D}_", "{HH AH0 L OW1 W ER1 L D}"]),
    (30, "abcdefghijklmnopqrstuvwxyz/abcdefghijklmnopqrstuvwxyz",
     ["abcdefghijklmnopqrstuvwxyz/_", "abcdefghijklmnopqrstuvwxyz"]),
]  # fmt: skip


def shown(pieces: Sequence[Piece]) -> list[str]:
    """The pieces, each with the mark of its pause; the last has none."""
    marks = {pause: mark for mark, pause in PAUSES.items()} | {"end": ""}
    return [piece.text + marks[piece.pause] for piece in pieces]


def symbols_of(text: str) -> int:
    """Symbols of a text in which only ARPAbet has more than one character for each."""
    return len(re.sub(r"\{([^}]*)\}", lambda found: "x" * len(found[1].split()), text))


def in_words(text: str) -> int:
    """Symbols, if each digit is read as a word of five letters."""
    return len(text) + 4 * sum(map(str.isdigit, text))


def fed(chunks: Sequence[str] | Iterator[str], limit: int, length: Callable[[str], int] = len) -> list[Piece]:
    splitter = Splitter(length, limit)
    return [*(piece for chunk in chunks for piece in splitter.feed(chunk)), *splitter.close()]


def in_chunks(text: str, rng: random.Random) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + rng.choice([1, 1, 2, 3, 7, 50, 400])
        yield text[start:end]
        start = end


def check_spans(text: str, pieces: Sequence[Piece]) -> None:
    """Pieces are in order and cover all but whitespace, and only the last has no pause."""
    end = 0
    for piece in pieces:
        assert piece.text == text[piece.start : piece.end] == piece.text.strip() != ""
        assert not text[end : piece.start].strip()
        end = piece.end
    assert not text[end:].strip()
    assert [piece.pause == "end" for piece in pieces] == [False] * (len(pieces) - 1) + [True] * bool(pieces)


@pytest.mark.parametrize("case", [case for cases in SENTENCES.values() for case in cases])
def test_sentences(case: str) -> None:
    parts = re.split(r"(?<=[|¶])", case)
    between = "" if "。" in case else " "
    text = "".join(part.replace("|", between).replace("¶", "\n\n") for part in parts)
    pieces = split(text, len, LONG)
    assert shown(pieces) == parts
    check_spans(text, pieces)
    assert fed(text, LONG) == pieces  # one character at a time


@pytest.mark.parametrize(("text", "expected"), LAYOUTS)
def test_layouts(text: str, expected: list[str]) -> None:
    pieces = split(text, len, LONG)
    assert shown(pieces) == expected
    check_spans(text, pieces)
    assert fed(text, LONG) == pieces


@pytest.mark.parametrize(("limit", "text", "expected"), CLAUSES)
def test_clauses_of_long_sentences(limit: int, text: str, expected: list[str]) -> None:
    pieces = split(text, symbols_of, limit)
    assert shown(pieces) == expected
    check_spans(text, pieces)
    assert fed(text, limit, symbols_of) == pieces


def test_phrases_follow_the_language() -> None:
    """Only English has a list of the words that begin a phrase."""
    text = "one two three and four five six seven"
    assert shown(split(text, len, 30)) == ["one two three_", "and four five six seven"]
    assert shown(split(text, len, 30, language="de")) == ["one two three and_", "four five six seven"]


@pytest.mark.parametrize("text", ["word " * 60 + "word.", "x" * 300, "word, " * 50])
def test_pieces_have_similar_lengths(text: str) -> None:
    """Not 100, 100, 100, 5."""
    lengths = [len(piece.text) for piece in split(text, len, 100)]
    assert max(lengths) <= 100
    assert min(lengths) > 40


def test_numbers_count_as_they_are_read() -> None:
    """The limit is for what the model reads, not for characters."""
    text = "In 1987 we sold 1,234,567 of them for $2,345,678.90, and in 1988 another 7,654,321 for $9,876,543.21."
    pieces = split(text, in_words, 120)
    assert max(in_words(piece.text) for piece in pieces) <= 120
    assert len(pieces) > len(split(text, len, 120)) == 1


FRAGMENTS = [
    "a", "B", ". ", ".", "!", "? ", " ", "  ", "\n", "\r", "\r\n", "\n\n", '"', "“", "”", "(", ")", "{HH AH0}", "{",
    "}", "…", "...", "—", " - ", "- ", "1. ", "e.g. ", "Mr. ", "word ", "Word ", "x" * 17, "\x00", "\u200f", "\ud800",
    "e\u0301", "👍🏽", "http://a.b/c. ", "a@b.co ", "5", "3.5", "。", "\uff1f", ",", ", ", "; ", " and ", " " * 120,
    "\u2029", "#",
]  # fmt: skip
LENGTHS: list[Callable[[str], int]] = [
    len, lambda text: sum(map(str.isalpha, text)), lambda text: 0, in_words
]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_any_text_in_any_chunks(seed: int) -> None:
    """The property that a stream needs: a boundary is given only when no text behind it can change it."""
    rng = random.Random(seed)
    for _ in range(40):
        weights = [rng.random() ** 2 for _ in FRAGMENTS]
        text = "".join(rng.choices(FRAGMENTS, weights, k=rng.choice([5, 20, 100, 300])))
        limit, length = rng.choice([1, 3, 10, 40, 100]), LENGTHS[seed]
        pieces = split(text, length, limit)
        check_spans(text, pieces)
        assert all(length(piece.text) <= limit or len(piece.text) == 1 for piece in pieces)
        assert fed(text, limit, length) == pieces
        assert fed(in_chunks(text, rng), limit, length) == pieces


def paragraphs() -> str:
    """Real sentences of the bundled corpus."""
    rows = (REPOSITORY / "demo/corpus/metadata.csv").read_text(encoding="utf-8").splitlines()
    texts = [row.split("|")[1] for row in rows[:120]]
    return "\n\n".join(" ".join(texts[start : start + 6]) for start in range(0, len(texts), 6))


def test_real_paragraphs_in_any_chunks() -> None:
    text, rng = paragraphs(), random.Random(0)
    for limit in (40, 99):
        pieces = split(text, len, limit)
        check_spans(text, pieces)
        assert fed(in_chunks(text, rng), limit) == pieces == fed(text, limit)


def test_sentences_of_the_corpus_are_found() -> None:
    """Each row of the corpus is a sentence; joined to paragraphs, they come back."""
    text = paragraphs()
    rows = [row.split("|")[1] for row in (REPOSITORY / "demo/corpus/metadata.csv").read_text().splitlines()[:120]]
    found = {piece.text for piece in split(text, len, LONG)}
    assert len(found.intersection(rows)) == 118  # "the respite of May." is no end to sentencex, which knows "May."


def test_a_look_ahead_of_30_characters_is_enough() -> None:
    """sentencex finds the same sentences with all text in view. Only long quotations and brackets differ."""
    for paragraph in paragraphs().split("\n\n"):
        expected = [sentence.strip() for sentence in sentencex.segment("en", paragraph)]
        assert [piece.text for piece in split(paragraph, len, 1000)] == expected


def test_letters_are_not_cut() -> None:
    """Accents, skin tones, joined emoji and surrogate pairs stay with their letter."""
    for letter in ("e\u0301\u0323", "👍🏽", "👩\u200d🚀", "\ud83d\ude00"):
        for limit in (10, 11):
            assert all(len(p.text) % len(letter) == 0 for p in split(letter * 40, len, limit)), (letter, limit)


class Counted:
    """Counts the calls of a length function, and the characters that it was given."""

    def __init__(self) -> None:
        self.calls = self.characters = 0

    def __call__(self, text: str) -> int:
        self.calls, self.characters = self.calls + 1, self.characters + len(text)
        return len(text)


ENDLESS = {
    "no space": "x", "no mark": "some words ", "commas": "a, ", "full stops": "e.g. ", "nothing to read": "\x00",
    "braces": "{", "line breaks": "a\n", "sentences": "This is one. ",
}  # fmt: skip


@pytest.mark.parametrize("unit", ENDLESS.values(), ids=ENDLESS)
def test_time_and_memory_are_linear(unit: str) -> None:
    """100 times as much text costs 100 times as much, and a stream of it needs no more memory."""
    limit, cost = 50, []
    for size in (400, 40_000):
        text, length, held = (unit * size)[:size], Counted(), 0
        splitter = Splitter(length, limit)
        for start in range(0, size, 50):
            splitter.feed(text[start : start + 50])
            held = max(held, len(splitter._text))
        splitter.close()
        cost.append((length.calls, length.characters))
        assert held <= (LAST_WINDOW + 2) * limit + 2 * MAX_GAP
    assert cost[1][0] <= 150 * cost[0][0]
    assert cost[1][1] <= 150 * cost[0][1]
    assert cost[1][1] <= 15 * 40_000


@pytest.mark.parametrize("unit", ["{HH ", "\U0001f600 ", "| "])
def test_what_has_no_symbols_is_looked_at_a_few_times(unit: str) -> None:
    """A request of 4,096 such characters once held back all others for half a minute."""
    reader, counted = Reader("english_cleaners", SYMBOLS), 0

    def length(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return reader.length(text)

    text = unit * (4096 // len(unit))
    check_spans(text, fed([text], reader.limit, length))
    assert counted < 4 * len(text)


def test_ten_megabytes_without_a_space() -> None:
    """At once, and with nothing to read."""
    size = 10_000_000
    pieces = split("\x00" * (size // 2) + " " * (size // 2), lambda text: 0, 10_000)
    assert sum(len(piece.text) for piece in pieces) == size // 2


@pytest.mark.parametrize("text", ["", " ", "\n\n\r\n", "\u2003" * 1000])
def test_whitespace_has_no_pieces(text: str) -> None:
    assert split(text, len, 10) == fed(text, 10) == []


def test_a_limit_of_no_symbols_is_refused() -> None:
    with pytest.raises(UserError, match="limit=0: a piece needs at least 1 symbol"):
        Splitter(len, 0)


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_pauses_are_checked(seconds: float) -> None:
    with pytest.raises(UserError, match=r"sentence=.* must be"):
        Pauses(sentence=seconds)
    assert Pauses(paragraph=2).after("paragraph") == 2
    assert Pauses().after("end") == 0


def test_what_has_no_words_is_not_read() -> None:
    """The line of stars between two paragraphs, which some models would read as noise."""
    reader = Reader("basic_cleaners", SYMBOLS)
    reads = list(reader.read("One \U0001f600.\n\n* * *\n\n---\n\nTwo."))
    assert [read.piece.text for read in reads if read.ids] == ["One \U0001f600.", "Two."]
    assert [symbol for read in reads for symbol in read.dropped] == ["\U0001f600", "*"]
    assert len([read for read in reader.read("--- ...") if read.ids]) == 1
    assert not any(read.ids for read in reader.read("\U0001f600"))
