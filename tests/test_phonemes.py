"""Phonemes by the program espeak-ng: the marks around them, one process for many texts, and what happens without it.

What espeak-ng says differs between its versions, so no test expects exact phonemes.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import unicodedata
from pathlib import Path

import pytest

from common.checkpoint import files
from common.errors import UserError
from inference import Synthesizer
from synthesis.job_options import NOT_READ_RIGHT
from synthesis.reader import Reader
from synthesis.ssml import parse
from synthesis.timings import owners
from tacotron2.text import Lexicon, clean_text, encode, ids_to_text, phonemes, prepare, symbols_of, word_spans
from tacotron2.text.espeak import PROGRAM, phonemes_of
from tacotron2.text.phonemes import KEPT, MAX_PHRASE, PHONEMES
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import prepare as prepare_corpus
from tests.helpers.corpus import write_corpus
from tests.helpers.runs import TINY_TACOTRON2, train_command

needs_espeak = pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="needs the program espeak-ng")
SYMBOLS = symbols_of("phonemes", "de", None)


def without_marks(text: str) -> str:
    return "".join(character for character in text if character not in KEPT)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> phonemes._Cache:
    """An empty cache in place of that of the process."""
    monkeypatch.setattr(phonemes, "_CACHE", phonemes._Cache(100))
    return phonemes._CACHE


def scripted(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of the name of espeak-ng first on the path."""
    path.mkdir()
    program = path / PROGRAM
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")


# Phrases and marks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ja, gut.", ["<Ja>", ",", " ", "<gut>", "."]),
        ("„Ja“, sagte sie.", ["", "<Ja>", "", ",", " ", "<sagte sie>", "."]),
        ("¿Qué? ¡Sí!", ["¿", "<Qué>", "?", " ", "¡", "<Sí>", "!"]),
        ("3,14 um 10:30, -5 bis 7.", ["<3,14 um 10:30>", ",", " ", "<-5 bis 7>", "."]),
        ("l'eau d’or", ["<l'eau d’or>"]),
        ("ein—zwei … drei", ["<ein>", "—", "<zwei>", " ", "…", " ", "<drei>"]),
        ("(a) 'b' \"c\"", ["(", "<a>", ")", " ", "", "<b>", "", " ", "", "<c>", ""]),
        ("你好。再见！", ["<你好>", ".", " ", "<再见>", "!", " "]),
        ("  a \n b  ", [" ", "<a b>", " "]),
        (" ... ", [" ", "...", " "]),
        ("", []),
    ],
)  # fmt: skip
def test_marks_are_kept_and_phrases_are_between_them(text: str, expected: list[str]) -> None:
    parts = phonemes._parts(text.translate(phonemes.MARKS_OF_SCRIPTS))
    found = [f"<{part}>" if is_phrase else part for part, is_phrase in parts]
    assert [part for part in found if part] == [part for part in expected if part]


def test_a_phrase_is_never_too_long_for_a_line_of_the_program() -> None:
    for text in ("你" * 5000, "wort " * 2000, "a" * 500 + " b" * 500):
        parts = list(phonemes._parts(text))
        assert max(len(part.encode()) for part, _ in parts) < 1000
        assert all(len(part) <= MAX_PHRASE for part, _ in parts)
        assert "".join(part for part, _ in parts).replace(" ", "") == text.replace(" ", "")


def test_the_symbols_are_one_table_for_all_languages() -> None:
    assert symbols_of("phonemes", "es", None) == SYMBOLS
    assert len(set(SYMBOLS)) == len(SYMBOLS) == len(PHONEMES) + 1
    assert set(unicodedata.normalize("NFC", PHONEMES)) == set(PHONEMES)
    assert not any(symbol.startswith("@") for symbol in SYMBOLS)
    assert symbols_of("phonemes", "es", "aˈb") == ("_", "a", "ˈ", "b")
    spans = word_spans([SYMBOLS.index(symbol) for symbol in "ˈɑ̃ tˈoː.k"], SYMBOLS)  # a nasal has a combining mark
    assert spans == [(0, 3), (4, 8), (9, 10)]


# The program


def test_without_the_program_an_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: phonemes._Cache
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"needs the program espeak-ng .*apt-get install espeak-ng .*brew install"):
        encode("Hallo", "phonemes", SYMBOLS, language="de")
    assert encode("...", "phonemes", SYMBOLS, language="de").dropped == []  # it is not needed


def test_a_symbol_that_the_model_does_not_know_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: phonemes._Cache
) -> None:
    """Of another version of the program, say. What it writes as ASCII marks is no punctuation."""
    answers = 'qz*) echo SEPARATOR;; *) echo " h\u02c8al(de)l? o\u1e9e\u2603-:";;'
    scripted(tmp_path / "bin", f'while read line; do case "$line" in {answers} esac; done', monkeypatch)
    encoded = encode("Hallo, du", "phonemes", SYMBOLS, language="de")
    assert ids_to_text(encoded.ids, SYMBOLS) == "h\u02c8all\u0294 o\u02d0, h\u02c8all\u0294 o\u02d0"
    assert encoded.dropped == ["\u1e9e", "\u2603"]


def test_a_program_that_loses_lines_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: phonemes._Cache
) -> None:
    scripted(tmp_path / "bin", "echo SEPARATOR", monkeypatch)
    with pytest.raises(UserError, match="gave the phonemes of 0 lines for 1; use another version"):
        encode("Hallo", "phonemes", SYMBOLS, language="de")


@needs_espeak
def test_an_unknown_language_is_named() -> None:
    with pytest.raises(UserError, match=r"data.language=xx: espeak-ng fails \(.*\); .*espeak-ng --voices"):
        phonemes_of(["a"], "xx")


@needs_espeak
def test_each_line_has_its_own_phonemes() -> None:
    """Also lines that espeak-ng reads as several, or as none."""
    lines = ["eins", "Er kam. Dann ging er.", "", "zwei", "...", "the house", "drei"]
    found = phonemes_of(lines, "de")
    assert len(found) == len(lines)
    assert found == [phonemes_of([line], "de")[0] for line in lines]
    assert found[2] == found[4] == ""
    assert len(found[1].split()) == 5
    assert not set("()\n") & set("".join(found))


@needs_espeak
@pytest.mark.parametrize(
    ("language", "text", "marks"),
    [
        ("de", "„Grüß Gott“, sagte er – und ging … Am 3. Mai?", ", -...  ?"),
        ("es", "¿Cómo estás, José? ¡Muy bien!", "¿,?¡!"),
        ("fr", "L'eau (très froide) coule; n'est-ce pas ?", "();?"),
        ("fi", "Hyvää päivää, Helsinki!", ",!"),
        ("ru", "Привет, мир!", ",!"),
        ("cmn", "你好。再见！", ".!"),
    ],
)
def test_texts_are_ipa_with_their_punctuation(language: str, text: str, marks: str) -> None:
    if language in ("de", "fr", "es"):
        pytest.importorskip("num2words")
    encoded = encode(text, "phonemes", SYMBOLS, language=language)
    assert encoded.dropped == []
    said = ids_to_text(encoded.ids, SYMBOLS)
    assert "".join(mark for mark in said if mark in KEPT) == marks.replace(" ", "")
    letters = without_marks(said)
    assert "ˈ" in letters
    assert letters != text.lower()


@needs_espeak
def test_the_languages_of_the_program_are_read_with_the_symbols() -> None:
    """Numbers are a text in every language. Takes 5 seconds: a process for each of the languages."""
    rows = subprocess.run([PROGRAM, "--voices"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    languages = [row.split()[1] for row in rows if "-x-" not in row.split()[1]]
    assert len(languages) > 50
    numbers = " ".join(map(str, [*range(20), 30, 100, 1000]))
    lost = {language: encode(numbers, "phonemes", SYMBOLS, language=language).dropped for language in languages}
    assert sum(map(bool, lost.values())) < 0.1 * len(languages), lost  # names of phonemes that have no IPA there


@needs_espeak
def test_many_texts_need_one_process(cache: phonemes._Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[list[str]] = []

    def counted(lines: list[str], language: str) -> list[str]:
        runs.append(lines)
        return phonemes_of(lines, language)

    monkeypatch.setattr(phonemes, "phonemes_of", counted)
    texts = ["Guten Tag, Welt!", "Wie geht es {ˈziː}, Herr Weber?", "Guten Tag."]
    prepare(texts, "phonemes", language="de")
    assert len(runs) == 1
    assert runs[0] == ["Guten Tag", "Welt", "Wie geht es", "Herr Weber"]  # each once
    encoded = [encode(text, "phonemes", SYMBOLS, language="de").ids for text in texts]
    assert len(runs) == 1
    assert encode(texts[0], "phonemes", SYMBOLS, language="nl").ids != encoded[0]  # a cache for each language
    cache.size = 2
    encode("eins, zwei, drei, vier", "phonemes", SYMBOLS, language="de")
    assert len(cache._found) == 2
    prepare(texts, "basic_cleaners")  # has no effect
    assert len(runs) == 3


@needs_espeak
def test_the_phonemes_of_a_text_do_not_depend_on_others() -> None:
    texts = ["Guten Morgen, Frau Weber.", "Es regnet (schon wieder).", "Ja."]
    together = phonemes_of([texts[0], texts[1], texts[2]], "de")
    assert together == [phonemes_of([text], "de")[0] for text in texts]


@needs_espeak
def test_ipa_can_be_written_in_braces_in_lexicons_and_in_ssml() -> None:
    reader = Reader("phonemes", SYMBOLS, lexicon=Lexicon({"Vicky": "{ˈvɪki}"}), language="de")
    said = ids_to_text(reader.encode("Hallo Vicky!").ids, SYMBOLS)
    assert said.endswith(" ˈvɪki!")
    assert reader.encode("{ˈvɪki} {hallo}").dropped == []
    document = '<speak>Hallo <phoneme alphabet="ipa" ph="ˈvɪki">V.</phoneme></speak>'
    (passage,) = parse(document, language="de", alphabet=reader.alphabet)
    assert ids_to_text(reader.encode(passage.text).ids, SYMBOLS).endswith(" ˈvɪki")
    with pytest.raises(UserError, match="'ipa' is not supported by this voice; use x-arpabet"):
        parse(document)
    with pytest.raises(UserError, match="'x-arpabet' is not supported by this voice; use ipa"):
        parse(document.replace('"ipa"', '"x-arpabet"'), language="de", alphabet="ipa")
    with pytest.raises(UserError, match="write 1 to 500 symbols of the IPA"):
        parse(document.replace("ˈvɪki", "{a}"), language="de", alphabet="ipa")
    assert encode("{ˈvɪki}", "english_cleaners").dropped  # a voice that reads no IPA says so


@needs_espeak
def test_written_words_own_the_words_of_their_phonemes() -> None:
    reader = Reader("phonemes", SYMBOLS, language="fi")
    text = "Hyvää päivää, Helsinki!"
    ids = reader.encode(text).ids
    assert [(text[word.start : word.end], word.first, word.last) for word in owners(reader, text, ids)] == [
        ("Hyvää", 0, 1), ("päivää,", 1, 2), ("Helsinki!", 2, 3),
    ]  # fmt: skip


@needs_espeak
def test_english_is_cleaned_before() -> None:
    written = clean_text("Dr. Smith has $5.", "phonemes", language="en-us")
    assert written == clean_text("doctor Smith has five dollars.", "phonemes", language="en-us")


@needs_espeak
@pytest.mark.slow
def test_a_voice_that_reads_phonemes_is_trained_and_speaks(tmp_path: Path) -> None:
    """Takes 10 seconds: a training, and two commands that use it."""
    texts = ["Hyvää päivää.", "Tämä on talo.", "Kissa istuu.", "Yö on pitkä.", "Sataa lunta.", "Kaksi kalaa."]
    corpus = prepare_corpus(write_corpus(tmp_path / "corpus", [*texts, "Aamu on kirkas.", "Mennään kotiin."]))
    options = ("data.language=fi", "data.cleaners=phonemes", "trainer.max_steps=1")
    run_here(*train_command(corpus, tmp_path / "run", TINY_TACOTRON2, *options))
    text = files.load(files.find(tmp_path / "run")).text
    assert (text.language, text.cleaners, text.symbols) == ("fi", "phonemes", SYMBOLS)
    voice = Synthesizer.load(tmp_path / "run", device="cpu")
    assert voice.dropped("Kaksi kissaa, ja 12 kalaa!") == []
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("Kaksi kissaa, ja 12 kalaa!\n")
    command = ("inference.py", f"tacotron2={tmp_path / 'run'}", "vocoder=griffin_lim", f"input={phrases}")
    speech = (f"output={tmp_path / 'out'}", "max_decoder_steps=10", "attempts=1", "pictures=false")
    run_here(*command, *speech, expect=NOT_READ_RIGHT)
    assert (tmp_path / "out/0000.wav").stat().st_size > 1000
    check = ("scripts/check_dataset.py", f"data.root={corpus}", f"output={tmp_path / 'check'}", "num_processes=1")
    run_here(*check, *options[:2])
    fails_with(run_here(*check, "data.language=xx", options[1], expect=1), "data.language=xx: espeak-ng fails")
