"""SSML: what is read, with which speed and pauses, where it stands in the document, and what is refused."""

from __future__ import annotations

import itertools
import random
import re
from xml.etree import ElementTree

import pytest

from common.errors import UserError
from synthesis.passages import MARKS
from synthesis.reader import Reader
from synthesis.sentences import Pauses
from synthesis.ssml import Passage, parse, span
from synthesis.timings import WRITTEN
from tacotron2.text import SYMBOLS, clean_text
from tacotron2.text.say_as import FORMATS, KINDS, say_as
from tests.helpers import REPOSITORY

PAUSES = Pauses()


def speak(content: str) -> str:
    return f"<speak>{content}</speak>"


def brief(content: str, pauses: Pauses | None = None) -> list[tuple[str, float, float | None]]:
    return [(passage.text, passage.speed, passage.pause) for passage in parse(speak(content), pauses)]


def text_of(content: str) -> str:
    """The text of a document that is one passage."""
    (passage,) = parse(speak(content))
    return passage.text


def originals(document: str) -> list[tuple[str, str]]:
    """Each written word of the passages, and what the document has at its place."""
    found = []
    for passage in parse(document):
        for match in WRITTEN.finditer(passage.text):
            start, end = span(passage, *match.span())
            found.append((match[0], document[start:end]))
    return found


def check_places(document: str, passages: list[Passage]) -> None:
    """What holds for every result."""
    at = 0
    for passage in passages:
        assert len(passage.places) == len(passage.text) + 1
        for place in passage.places:
            assert at <= place <= len(document)
            at = place
        assert 0.25 <= passage.speed <= 4
        assert passage.pause is None or 0 <= passage.pause <= 10
        assert passage.text == passage.text.strip(" ")
        before = 0
        for match in re.finditer("[^ ]+", passage.text):
            start, end = span(passage, *match.span())
            assert before <= start <= end <= len(document)
            before = start
    for one, other in itertools.pairwise(passages):
        assert one.pause is not None or one.speed != other.speed


# What is read


def test_text_is_one_passage() -> None:
    document = "<speak>Hello there. Bye.</speak>"
    assert parse(document) == [Passage("Hello there. Bye.", tuple(range(7, 25)))]


@pytest.mark.parametrize("content", ["", "<p/>", "<p><s> </s>\n</p>", "<!-- a -->", "<prosody rate='2'> </prosody>"])
def test_a_document_without_text_has_no_passages(content: str) -> None:
    assert parse(speak(content)) == []


def test_marks_alone_are_left_to_the_caller() -> None:
    assert brief("...") == [("...", 1.0, None)]


def test_whitespace_is_one_space_and_breaks_no_line() -> None:
    assert text_of("\r\n  I met\r\n\t John.\n\n\n  We&#10;left.\n") == "I met John. We left."
    assert text_of("a\u00a0b") == "a\u00a0b"


def test_phonemes_aliases_and_numbers_stay_in_their_sentence() -> None:
    content = (
        'The <sub alias="World Wide Web">WWW</sub>s of <phoneme alphabet="x-arpabet" ph="hh ah0\n l ow1">x</phoneme> '
        'and <say-as interpret-as="ordinal">3</say-as>.'
    )
    assert text_of(content) == "The World Wide Webs of {HH AH0 L OW1} and third."
    assert clean_text(text_of(content)).endswith("webs of {HH AH0 L OW1} and third.")


def test_say_as_is_apart_from_letters_beside_it() -> None:
    digits = '<say-as interpret-as="digits">12</say-as>'
    assert text_of(f"Room{digits}b, ({digits}){digits}{digits}.") == "Room one two b, (one two)one two one two."
    assert text_of(f'{digits}<sub alias="x">y</sub>') == "one two x"


def test_whitespace_within_an_element_is_whitespace_around_it() -> None:
    assert text_of('a<sub alias=" b ">\n x </sub>c') == "a b c"
    assert text_of('a<sub alias="b">x</sub>c') == "abc"


def test_braces_are_those_of_plain_text() -> None:
    assert text_of("a {HH AH0 L OW1} } {") == "a {HH AH0 L OW1} } {"
    assert parse(speak("{}"))[0].text == "{}"


def test_the_reader_reads_a_passage_in_whole_sentences() -> None:
    content = 'I met <sub alias="Doctor">Dr.</sub>\n  Smith. He <prosody rate="100%">was</prosody> late.'
    reader = Reader("english_cleaners", SYMBOLS)
    assert [read.piece.text for read in reader.read(text_of(content))] == ["I met Doctor Smith.", "He was late."]


# Speeds and pauses


def test_rates_multiply() -> None:
    content = 'a <prosody rate="slow">b <prosody rate="120%">c</prosody> d</prosody> e <prosody rate="1">f</prosody>'
    assert brief(content) == [("a", 1, None), ("b", 0.75, None), ("c", 0.9, None), ("d", 0.75, None), ("e f", 1, None)]


@pytest.mark.parametrize(
    ("rate", "speed"),
    [("x-slow", 0.5), ("default", 1), ("medium", 1), ("fast", 1.25), ("x-fast", 1.5), ("25%", 0.25), ("4", 4)],
)
def test_rates(rate: str, speed: float) -> None:
    assert brief(f'<prosody rate="{rate}">a</prosody>') == [("a", speed, None)]


def test_rates_that_cancel_are_one_passage() -> None:
    assert text_of('a <prosody rate="0.75"><prosody rate="133.33333333%">b</prosody></prosody> c') == "a b c"


def test_marks_belong_to_a_word_beside_them() -> None:
    content = (
        '"<prosody rate="2">Yes</prosody>", (<prosody rate="3">he</prosody>) said <prosody rate="2">J</prosody>\'s -'
    )
    assert [text for text, _, _ in brief(content)] == ['"Yes",', "(he)", "said", "J's -"]


def test_sentences_and_paragraphs_end_without_punctuation() -> None:
    content = "before<p>one</p>\n<p><s>two</s> <s>three</s></p>end <s>last</s>"
    assert brief(content) == [
        ("before", 1, PAUSES.paragraph),
        ("one", 1, PAUSES.paragraph),
        ("two", 1, PAUSES.sentence),
        ("three", 1, PAUSES.paragraph),
        ("end", 1, PAUSES.sentence),
        ("last", 1, None),
    ]


def test_pauses_are_options_and_follow_the_rate() -> None:
    pauses = Pauses(sentence=0.0, paragraph=1.0)
    content = '<s>a</s><prosody rate="2"><p>b</p><p>c<break strength="strong"/>d<break time="3s"/></p>e</prosody>'
    assert brief(content, pauses) == [("a", 1, 0.5), ("b", 2, 0.5), ("c", 2, 0.5), ("d", 2, 3.0), ("e", 2, None)]
    assert brief("<s>a</s><s>b</s>", pauses) == [("a", 1, 0.0), ("b", 1, None)]


@pytest.mark.parametrize(
    ("attributes", "seconds"),
    [
        ("", PAUSES.sentence),
        ('time="500ms"', 0.5),
        ('time="1.5s" strength="none"', 1.5),
        ('time=".5s"', 0.5),
        ('time="0s"', 0),
        ('time="10s"', 10),
        ('strength="none"', 0),
        ('strength="x-weak"', PAUSES.clause / 2),
        ('strength="weak"', PAUSES.clause),
        ('strength="medium"', PAUSES.sentence),
        ('strength="strong"', PAUSES.paragraph),
        ('strength="x-strong"', 2 * PAUSES.paragraph),
    ],
)
def test_a_break_cuts(attributes: str, seconds: float) -> None:
    assert brief(f"Wait<break {attributes}/> here.") == [("Wait", 1, seconds), ("here.", 1, None)]


def test_breaks_replace_other_pauses_and_add_up() -> None:
    assert brief('<p>a<break time="1s"/></p><break time="2s"/><p>b</p>') == [("a", 1, 3.0), ("b", 1, None)]
    assert brief('<s>a</s><break strength="none"/><s>b</s>') == [("a", 1, 0.0), ("b", 1, None)]
    assert brief('a<break time="1s"/> - <break time="2s"/>b') == [("a", 1, 3.0), ("b", 1, None)]


def test_breaks_at_the_ends() -> None:
    first, second = parse(document := '<speak> <break time="1s"/>a<break time="2s"/></speak>')
    assert (first.text, first.pause, list(first.places)) == ("", 1.0, [document.index("<break")])
    assert (second.text, second.pause) == ("a", 2.0)


# Places


def test_places_of_what_is_written_otherwise() -> None:
    document = (
        "\ufeff<?xml version='1.0' encoding='utf-16'?>\r\n<speak>\r\n\U0001f600 R&amp;D,\r\ncaf&#233; &#x1F600;é "
        "<![CDATA[<&&> x]]> a<!-- é -->b <s>end</s></speak>"
    )
    assert originals(document) == [
        ("\U0001f600", "\U0001f600"),
        ("R&D,", "R&amp;D,"),
        ("café", "caf&#233;"),
        ("\U0001f600é", "&#x1F600;é"),
        ("<&&>", "<&&>"),
        ("x", "x"),
        ("ab", "a<!-- é -->b"),
        ("end", "end"),
    ]
    check_places(document, parse(document))
    first = parse(document)[0]
    amp = first.text.index("&")
    assert span(first, amp, amp + 1) == (document.index("&amp;"), document.index("&amp;") + 5)
    assert span(first, amp, amp) == (document.index("&amp;"),) * 2


def test_words_that_replace_others_stand_where_those_stood() -> None:
    document = speak(
        'see\r\n<sub alias="World Wide Web"> W&amp;W </sub> at <say-as interpret-as="time">2:30</say-as>b '
        '<phoneme alphabet="x-arpabet" ph="B IY1">é&#233;</phoneme>'
    )
    assert originals(document) == [
        ("see", "see"),
        *((word, "W&amp;W") for word in ("World", "Wide", "Web")),
        ("at", "at"),
        ("two", "2:30"),
        ("thirty", "2:30"),
        ("b", "b"),
        ("{B IY1}", "é&#233;"),
    ]
    (passage,) = parse(document)
    start = document.index("W&amp;W")
    assert set(passage.places[4:18]) == {start}
    assert passage.places[-1] == document.index("</phoneme>")


def test_words_in_the_place_of_nothing_have_an_empty_span() -> None:
    assert originals(speak('a <sub alias="b c"/> d')) == [("a", "a"), ("b", ""), ("c", ""), ("d", "d")]
    assert originals(speak('a <sub alias="b "></sub>d'))[1:] == [("bd", '<sub alias="b "></sub>d')]


def test_a_passage_without_known_ends_has_spans() -> None:
    passage = Passage("one two", [5, 6, 7, 8, 20, 20, 20, 23])
    assert span(passage, 0, 3) == (5, 8)
    assert span(passage, 4, 5) == (20, 23)
    with pytest.raises(ValueError, match="3 to 9"):
        span(passage, 3, 9)


# What is refused


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        ("hello", (1, 1), "<speak>"),
        ("", (1, 1), "<speak>"),
        ("<p>a</p>", (1, 1), "the document is <p>"),
        ("<speak>a</b></speak>", (1, 11), "mismatched tag"),
        ("<speak>\r\n\U0001f600&nbsp;</speak>", (2, 2), "undefined entity.*&#8217;"),
        ("<speak>a < b</speak>", (1, 11), "&lt;"),
        ("<speak>a\ud800</speak>", (1, 9), "surrogate"),
        ("<speak>\n\ré <emphasis>a</emphasis></speak>", (3, 3), "<emphasis> is not supported.*<prosody>"),
        ("<speak><voice name='a'>a</voice></speak>", (1, 8), "<voice> is not supported"),
        ("<speak><audio src='file:///etc/passwd'/></speak>", (1, 8), "<audio> is not supported"),
        ("<speak xml:lang='de'>a</speak>", (1, 8), "<speak xml:lang>: 'de'.*use en,"),
        ("<speak version='2'>a</speak>", (1, 8), "use 1.0 or 1.1"),
        ("<speak xmlns='http://a'>a</speak>", (1, 8), "www.w3.org/2001/10/synthesis"),
        ("<speak>\n<p id='a' >a</p></speak>", (2, 4), "<p id> is not supported.*has none"),
        ("<speak><prosody rate=' pitch=1' pitch='x'/></speak>", (1, 33), "<prosody pitch> is not"),
        ("<speak><prosody rate='1'\n pitch='high'/></speak>", (2, 2), "<prosody pitch> is not.*supported: rate"),
        ("<speak><prosody>a</prosody></speak>", (1, 8), "needs rate; it has none"),
        ("<speak><prosody rate='+20%'>a</prosody></speak>", (1, 17), "'\\+20%' is not a rate"),
        ("<speak><prosody rate='0'>a</prosody></speak>", (1, 17), "at least 0.25"),
        ("<speak><prosody rate='2'><prosody rate='2.1'/></prosody></speak>", (1, 35), "4.2 with.*at most 4"),
        ("<speak><break time='10.1s'/></speak>", (1, 15), "0 to 10 s"),
        ("<speak><break time='-1s'/></speak>", (1, 15), "500ms or 1.5s"),
        ("<speak><break time='1'/></speak>", (1, 15), "500ms or 1.5s"),
        ("<speak><break strength='big'/></speak>", (1, 15), "none, x-weak"),
        ("<speak>a<break time='6s'/> <break time='6s'/></speak>", (1, 28), "12 s; at most 10 s"),
        ("<speak><break>a</break></speak>", (1, 15), "write <break/>"),
        ("<speak><break><s/></break></speak>", (1, 15), "<s> cannot be in <break>"),
        ("<speak><sub alias='a'><break/></sub></speak>", (1, 23), "<break> cannot be in <sub>"),
        ("<speak><p><p/></p></speak>", (1, 11), "<p> cannot be in <p>"),
        ("<speak><s><prosody rate='1'><p/></prosody></s></speak>", (1, 29), "<p> cannot be in <s>"),
        ("<speak><speak/></speak>", (1, 8), "whole document"),
        ("<speak><sub>a</sub></speak>", (1, 8), "<sub> needs alias"),
        ("<speak><phoneme ph='B'>a</phoneme></speak>", (1, 8), "needs alphabet; it has ph"),
        ("<speak><phoneme alphabet='ipa' ph='b'>a</phoneme></speak>", (1, 17), "x-arpabet"),
        ("<speak><phoneme alphabet='x-arpabet' ph='HH AQ1'/></speak>", (1, 38), "'AQ1'.*near it: "),
        ("<speak><phoneme alphabet='x-arpabet' ph=' '/></speak>", (1, 38), "at least one"),
        ("<speak><say-as interpret-as='expletive'>a</say-as></speak>", (1, 16), "choose from: characters.*currency"),
        ("<speak><say-as interpret-as='date' detail='1'>a</say-as></speak>", (1, 36), "interpret-as, format"),
        ("<speak><say-as interpret-as='date'> 1/2</say-as></speak>", (1, 37), "format: mdy"),
        ("<speak><say-as interpret-as='digits' format='a'>1</say-as></speak>", (1, 49), "digits has no format"),
    ],
)
def test_an_error_names_the_place_and_the_cure(document: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=f"(?s)^SSML, line {place[0]}, column {place[1]}: .*{message}") as caught:
        parse(document)
    assert len(str(caught.value)) < 400


def test_accepted_attributes_of_the_document() -> None:
    document = (
        '<?xml version="1.0"?><!-- a --><speak version="1.1" xml:lang="en-GB" xmlns:x="http://a" '
        'xmlns="http://www.w3.org/2001/10/synthesis">a</speak>'
    )
    assert [passage.text for passage in parse(document)] == ["a"]


LAUGHS = "".join(f'<!ENTITY l{k + 1} "{f"&l{k};" * 10}">' for k in range(9))


@pytest.mark.parametrize(
    ("document", "column", "message"),
    [
        (f'<!DOCTYPE speak [<!ENTITY l0 "ha">{LAUGHS}]><speak>&l9;</speak>', 1, "document types"),
        ('<!DOCTYPE speak [<!ENTITY a SYSTEM "file:///etc/passwd">]><speak>&a;</speak>', 1, "document types"),
        ('<!DOCTYPE speak [<!ENTITY % a SYSTEM "http://a/b.dtd"> %a;]><speak/>', 1, "document types"),
        ('<!-- <speak> -->\r<!DOCTYPE speak SYSTEM "a.dtd"><speak/>', 1, "document types"),
        ("<speak><!DOCTYPE speak></speak>", 10, "not well-formed"),
        ('<?xml-stylesheet href="a"?><speak/>', 1, "remove <\\?xml-stylesheet"),
        ("<speak><?php a ?></speak>", 8, "remove <\\?php"),
    ],
)
def test_what_makes_xml_unsafe_is_refused(document: str, column: int, message: str) -> None:
    with pytest.raises(UserError, match=f"line [12], column {column}.*{message}"):
        parse(document)


def test_depth_is_bounded() -> None:
    def nested(depth: int) -> str:
        return speak("<prosody rate='1'>" * (depth - 1) + "a" + "</prosody>" * (depth - 1))

    assert len(parse(nested(50))) == 1
    for depth in (51, 100_000):
        with pytest.raises(UserError, match="at most 50"):
            parse(nested(depth))


# <say-as>


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("characters", "NaSa-1 é٣", "N A S A dash one, é three"),
        ("spell-out", "{a}\u2603", "left curly bracket A right curly bracket snowman"),
        ("characters", "e\u0301x", "é X"),
        ("cardinal", "1905", "one thousand nine hundred five"),
        ("cardinal", "-1,234.50", "minus one thousand two hundred thirty-four point five zero"),
        ("number", "007", "seven"),
        ("number", "3/4", "three quarters"),
        ("fraction", "1 1/2", "one and one half"),
        ("ordinal", "22", "twenty-second"),
        ("ordinal", "1,001st", "one thousand first"),
        ("digits", "12-345", "one two, three four five"),
        ("telephone", "+1 (800) 555-0199 ext. 12", "plus one, eight hundred, five five five, zero one nine nine, "
                                                    "extension one two"),
        ("time", "14:05", "fourteen oh five"),
        ("time", "2:30pm", "two thirty p.m."),
        ("time", "2 PM", "two p.m."),
        ("currency", "$42.50", "forty-two dollars, fifty cents"),
        ("currency", "3 EUR", "three euros"),
        ("currency", "£2 million", "two million pounds"),
        ("date", "2024-05-01", "May first, twenty twenty-four"),
        ("date", "May 1st, 2024", "May first, twenty twenty-four"),
        ("date", "1 Sept. 1905", "the first of September, nineteen oh five"),
        ("date", "1905", "nineteen oh five"),
        ("date", "June 1905", "June nineteen oh five"),
        ("date", " ", ""),
    ],
)  # fmt: skip
def test_say_as(kind: str, text: str, words: str) -> None:
    assert say_as(text, kind) == words


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("mdy", "1/2/2024", "January second, twenty twenty-four"),
        ("dmy", "1.2.24", "the first of February, twenty-four"),
        ("ymd", "2024/1/2", "January second, twenty twenty-four"),
        ("md", "2-29", "February twenty-ninth"),
        ("dm", "29 2", "the twenty-ninth of February"),
        ("my", "2/2005", "February two thousand five"),
        ("ym", "1900-12", "December nineteen hundred"),
        ("d", "31", "thirty-first"),
        ("m", "12", "December"),
        ("y", "2000", "two thousand"),
    ],
)
def test_say_as_a_date(form: str, text: str, words: str) -> None:
    assert say_as(text, "date", form) == words


def test_the_cleaners_keep_the_words_of_say_as() -> None:
    """Each is read once: nothing in the words is a number or a sign to the cleaners."""
    texts = {"time": "2:30 pm", "date": "2024-05-01", "currency": "$5.01", "fraction": "2/3", "characters": "AB,1 IV"}
    for kind in KINDS:
        words = say_as(texts.get(kind, "12"), kind)
        assert clean_text(words) == words.lower()


@pytest.mark.parametrize(
    ("kind", "form", "text"),
    [
        *((kind, None, "a {b}") for kind in KINDS if kind not in ("characters", "spell-out")),
        *((kind, None, "²") for kind in KINDS if kind not in ("characters", "spell-out")),
        ("date", None, "1/2/2024"),
        ("date", "mdy", "13/1/2024"),
        ("date", "mdy", "2/30/2024"),
        ("date", "mdy", "1/2"),
        ("date", "ymd", "1/2/May"),
        ("date", "dm", "May May"),
        ("date", "hms12", "1"),
        ("time", None, "24:60"),
        ("time", None, "13:00 pm"),
        ("time", "hms12", "13:00"),
        ("time", "hms24", "1:00 pm"),
        ("cardinal", None, "1,23"),
        ("cardinal", None, "."),
        ("cardinal", None, "1" * 1001),
        ("fraction", None, "1/0"),
        ("ordinal", None, "1" * 16),
        ("currency", None, "42"),
        ("voice", None, "a"),
    ],
)
def test_what_cannot_be_said_so(kind: str, form: str | None, text: str) -> None:
    with pytest.raises(UserError):
        say_as(text, kind, form)


# Any document

WHOLE = speak(
    '\r\n<p>Hello &amp; "<sub alias="World Wide Web">WWW</sub>"s.<s>One é\U0001f600</s> <s>2&#33;</s></p>'
    '<break time="500ms"/><prosody rate="slow">a <prosody rate="120%"> b</prosody>, c</prosody> - <![CDATA[<x> & ]]>'
    'y<break strength="weak"/>...<phoneme alphabet="x-arpabet" ph="HH AH0">hey</phoneme>{B IY1} <!-- note -->'
    '<say-as interpret-as="date" format="mdy">1/2/2024</say-as> <say-as interpret-as="characters">A-1</say-as>'
)
PARTS = re.findall(r"<[^<>]*>|[^<>\s]+|\s+|[<>]", WHOLE)
WORDS = ["<", "&", "]]>", "<![CDATA[", "\r", "&#x1F600;", "&lt;", "\x00", "\ud800", "\ufffe", '"', "<p>", "</s>", "9"]


def mutated(chance: random.Random) -> str:
    """A document with some parts removed, repeated, exchanged or replaced."""
    parts = list(PARTS)
    for _ in range(chance.randint(1, 6)):
        at, other = chance.randrange(len(parts)), chance.randrange(len(parts))
        kind = chance.randrange(6)
        if kind == 0:
            del parts[at]
        elif kind == 1:
            parts[at:at] = parts[other : other + chance.randint(1, 5)]
        elif kind == 2:
            parts[at], parts[other] = parts[other], parts[at]
        elif kind == 3:
            parts[at] = chance.choice(WORDS)
        elif kind == 4 and parts[at]:
            cut = chance.randrange(len(parts[at]))
            parts[at] = parts[at][:cut] + chance.choice(WORDS) * chance.randint(0, 1) + parts[at][cut + 1 :]
        elif not parts[at].startswith("<"):
            parts[at] = chance.choice(["word", " ", "\r\n", "é", "-", "{", "'s", "5"])
    return "".join(parts)


def test_any_document_is_read_or_refused() -> None:
    assert "".join(PARTS) == WHOLE
    check_places(WHOLE, parse(WHOLE))
    chance, read, problems = random.Random(0), 0, list[str]()
    for _ in range(2000):
        document = mutated(chance)
        try:
            passages = parse(document)
        except UserError as error:
            problems.append(str(error))
            continue
        read += 1
        check_places(document, passages)
    assert 300 < read < 1700
    assert [problem for problem in problems if not re.match(r"SSML, line \d+, column \d+: ", problem)] == []


def test_no_text_is_lost_and_plain_text_stands_where_it_is_written() -> None:
    """Against another reader of XML, on random documents without elements that replace their content."""
    chance = random.Random(1)
    pieces = [
        "word",
        "é",
        "\U0001f600",
        " ",
        "\r\n",
        "&amp;",
        "&#233;",
        "<![CDATA[<&>]]>",
        "<!-- x -->",
        ",",
        '"',
        "{B}",
    ]
    for _ in range(300):
        content = ""
        for _ in range(chance.randint(1, 12)):
            inner = "".join(chance.choices(pieces, k=chance.randint(0, 4)))
            rate = chance.choice(["1", "slow", "2"])
            content += chance.choice(
                [inner, f"<s>{inner}</s>", f'<prosody rate="{rate}">{inner}</prosody>', "<break/>"]
            )
        document = speak(content)
        passages = parse(document)
        check_places(document, passages)
        written = "".join(ElementTree.fromstring(document).itertext())
        kept = [mark for passage in passages for mark in passage.text if mark not in MARKS]
        assert kept == [mark for mark in written if mark not in MARKS and not mark.isspace()]
        for passage in passages:
            for mark, place in zip(passage.text, passage.places, strict=False):
                assert document[place] in (mark, "&") or mark == " " == " " * document[place].isspace()


@pytest.mark.parametrize(
    ("unit", "passages"),
    [
        ("word é\U0001f600&amp; ", 1),
        ('<sub alias="a b">c</sub>\n', 1),
        ("<s>hello world</s>", None),
        ('<prosody rate="2">a</prosody> . ', 1),
        ('<prosody rate="2"> a</prosody> b.', None),
        ('<break time="0s"/>.', 1),
        ("<!-- <!DOCTYPE -->", 0),
    ],
)
def test_a_megabyte(unit: str, passages: int | None) -> None:
    """If the time were quadratic, this would take hours."""
    count = 1_000_000 // len(unit)
    found = parse(speak(unit * count))
    assert len(found) == (passages if passages is not None else count * (2 if "prosody" in unit else 1))


def test_a_long_name_or_value_is_not_repeated_in_full() -> None:
    long = "a" * 100_000
    for document in (
        f"<{long}/>",
        speak(f"<{long}/>"),
        speak(f"<p {long}='1'/>"),
        speak(f"<prosody rate='{long}'/>"),
        speak(f"<break time='{'1' * 100_000}s'/>"),
        speak(f"<break strength='{long}'/>"),
        speak(f"<phoneme alphabet='x-arpabet' ph='{long}'/>"),
        speak(f"<say-as interpret-as='{long}'/>"),
        speak(f"<say-as interpret-as='date'>{long}</say-as>"),
        speak(f"<say-as interpret-as='date' format='{long}'>1</say-as>"),
        speak(f"<?{long} ?>"),
    ):
        with pytest.raises(UserError) as caught:
            parse(document)
        assert len(str(caught.value)) < 400


# The page


def test_the_page_is_right() -> None:
    page = (REPOSITORY / "docs/ssml.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```xml\n(.*?)```", page, re.DOTALL)
    passages = parse(example)
    assert [(passage.text, passage.speed, passage.pause) for passage in passages] == [
        ("Platform nine A. The London and North Eastern train to {AA1 L N IH0 K} is late.", 1, PAUSES.paragraph),
        ("Please wait.", 0.75, 1.5),
        ("Thank you.", 1, None),
    ]
    for name in (*KINDS, *FORMATS["date"], *FORMATS["time"]):
        assert re.search(rf"\b{name}\b", page), name
