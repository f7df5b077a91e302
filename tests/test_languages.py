"""Languages besides English: their symbols, how their texts are read, and a voice that is trained and speaks in one."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path

import pytest
import torch

from common.checkpoint import files, formats
from common.checkpoint.checkpoint import Checkpoint
from common.config import DataConfig
from common.errors import UserError
from common.schema import from_dict
from evaluation.languages import WORDS, other_language
from inference import Synthesizer
from synthesis.clauses import CONJUNCTIONS, LEADING, PHRASES
from synthesis.job_options import NOT_READ_RIGHT
from synthesis.reader import Reader
from synthesis.server.shelf import Shelf
from synthesis.ssml import parse
from tacotron2.spec import TACOTRON2
from tacotron2.text import CLEANERS, SYMBOLS, encode, ids_to_text, language_of, spoken, symbols_of
from tacotron2.text.alike import ALIKE
from tacotron2.text.languages import LANGUAGES, SYMBOLIC_UNITS
from tacotron2.text.symbols import PAD
from tests.helpers.commands import fails_with, run_here
from tests.helpers.corpus import prepare, write_corpus
from tests.helpers.runs import TINY_TACOTRON2, read_log, train_command

needs_num2words = pytest.mark.skipif(
    importlib.util.find_spec("num2words") is None, reason="needs the extra [languages]"
)

READINGS = {
    "de": [
        ("„Grüß Gott“, sagte sie – laut.", "grüß gott, sagte sie - laut."),
        ("Es sind 1.250 Leute.", "es sind eintausendzweihundertfünfzig leute."),
        ("Im Jahr 1984", "im jahr neunzehnhundertvierundachtzig"),
        ("in den 1990er Jahren", "in den neunzehnhundertneunziger jahren"),
        ("am 3. Mai, der 2. Zug, 5. Juni", "am dritten mai, der zweite zug, fünfter juni"),
        ("am 03.05.1990", "am dritten mai neunzehnhundertneunzig"),
        ("um 10:30 Uhr, 9:00 Uhr", "um zehn uhr dreißig, neun uhr"),
        ("2,50 € und 1 €, 3,14 %", "zwei euro fünfzig und ein euro, drei komma eins vier prozent"),
        ("bei -5 °C und 120 km/h", "bei minus fünf grad celsius und einhundertzwanzig kilometer pro stunde"),
        ("Seiten 10-12, A4, 007", "seiten zehn bis zwölf, a vier, null null sieben"),
        ("Dr. Weiß, z. B. heute & usw.", "doktor weiß, zum beispiel heute und und so weiter"),
        ("Café Москва", "cafe moskva"),
    ],
    "es": [
        ("¿Cómo estás, José? ¡Muy bien!", "¿cómo estás, josé? ¡muy bien!"),
        ("«Sí», dijo la Sra. Núñez.", "sí, dijo la señora núñez."),
        ("Tiene 21 años y 16 días.", "tiene veintiún años y dieciséis días."),
        ("El 15 % son 3.500 €.", "el quince por ciento son tres mil quinientos euros."),
        ("o 12,50 €", "o doce euros con cincuenta"),
        ("La 3ª vez, el 2º, 5 km.", "la tercera vez, el segundo, cinco kilómetros."),
        ("A las 10:30 en EE. UU.", "a las diez y treinta en estados unidos"),
        ("el 3/5/1990", "el tres de mayo de mil novecientos noventa"),
    ],
    "fr": [
        ("Le 1er mai, M. Dupont a 3 500 €.", "le premier mai, monsieur dupont a trois mille cinq cents euros."),
        ("À 10 h 30, l'œuvre n'a que 3,5 km.", "à dix heures trente, l'œuvre n'a que trois virgule cinq kilomètres."),
        ("la 1re fois, le 2e", "la première fois, le deuxième"),
    ],
    "it": [("La 3ª volta il sig. Rossi pagò 12,50 €.", "la terza volta il signor rossi pagò dodici euro e cinquanta.")],
    "pt": [("O Sr. João pagou R$ 12,50 às 10:30.", "o senhor joão pagou doze reais e cinquenta às dez e trinta.")],
    "nl": [("Dhr. Bos wacht om 10:30 uur, de 3e keer.", "de heer bos wacht om tien uur dertig, de derde keer.")],
    "sv": [("Det finns 25 hästar på ön.", "det finns tjugofem hästar på ön.")],
}  # fmt: skip


def read(text: str, language: str) -> str:
    """What a new model of the language reads, if it can read all of it."""
    symbols = symbols_of("language_cleaners", language, None)
    encoded = encode(text, "language_cleaners", symbols, language=language)
    assert encoded.dropped == []
    return ids_to_text(encoded.ids, symbols)


@needs_num2words
@pytest.mark.parametrize(
    ("language", "written", "expected"), [(code, *case) for code, cases in READINGS.items() for case in cases]
)
def test_texts_are_read_as_people_read_them(language: str, written: str, expected: str) -> None:
    assert read(written, language) == expected


@needs_num2words
def test_words_alone_are_only_made_lower_case() -> None:
    text = "Der Nordwind und die Sonne stritten sich, wer von ihnen wohl der Stärkere wäre."
    assert read(text, "de") == text.lower()
    assert read(text, "de-at") == text.lower()


@needs_num2words
@pytest.mark.parametrize("code", [code for code in LANGUAGES if LANGUAGES[code].rules])
def test_every_rule_of_a_language_gives_words(code: str) -> None:
    """Each sign, unit, abbreviation, month and number is read with the letters of the language, and without digits."""
    rules = LANGUAGES[code].rules
    signs = [f"2 {sign} 3" for sign in rules.signs] + [f"2,05 {sign}" for sign in rules.currencies]
    numbers = [*map(str, range(1, 121)), "1984", "12.345", "1.234.567", "-3", "0,5", "10-12", "2.5", "7:05", "9:00"]
    dates = [f"{day}.{month}.2024" for day in (1, 21) for month in range(1, 13)]
    texts = [*signs, *numbers, *dates, *(f"7 {unit}" for unit in SYMBOLIC_UNITS), *rules.abbreviations]
    for text in texts:
        said = read(text, code)
        assert said, text
        assert not set("0123456789%&+=§@€$£") & set(said), (text, said)
        assert said != text.lower(), text
    assert len(rules.months.split()) == 12


@needs_num2words
@pytest.mark.parametrize("unit", ["1", "1.", "1,", "12:34 ", "-", "5 €", "3. ", "a1", "1.234", "10-"])
def test_time_is_linear_in_the_length_of_the_text(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    start = time.process_time()
    encode(text, "language_cleaners", SYMBOLS, language="de")
    assert time.process_time() - start < 5  # 0.2 to 0.6 s; squared, it would be minutes


def test_digits_without_the_package_are_an_error_that_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    spoken._num2words.cache_clear()
    spoken._name.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert read("Ein Satz.", "de") == "ein satz."
    with pytest.raises(UserError, match=r"num2words.*pip install -e '.\[languages\]', or write them in words"):
        read("12 Sätze", "de")


@needs_num2words
def test_digits_that_no_package_reads_are_reported() -> None:
    symbols = symbols_of("language_cleaners", "eu", "-!(),.:;? abcdefghijklmnopqrstuvwxyzñ")
    assert encode("Hogei 20 urte", "language_cleaners", symbols, language="eu").dropped == ["2", "0"]


# Symbols


def test_english_is_what_it_was() -> None:
    for cleaners in CLEANERS:
        assert symbols_of(cleaners, "en", None) == SYMBOLS
    assert symbols_of("basic_cleaners", "en", "ab") == symbols_of("basic_cleaners", "de", "ab")
    assert from_dict(DataConfig, {"root": "x"}).cleaners == "english_cleaners"
    assert from_dict(DataConfig, {"root": "x", "language": "en-gb"}).cleaners == "english_cleaners"
    assert from_dict(DataConfig, {"root": "x", "language": "de"}).cleaners == "language_cleaners"
    assert language_of("basic_cleaners", "en") == ""  # data.language has not been set
    assert language_of("english_arpabet", "en") == "en"
    assert language_of("basic_cleaners", "de") == "de"


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_has_each_of_its_letters_once(code: str) -> None:
    symbols = symbols_of("language_cleaners", code, None)
    assert len(set(symbols)) == len(symbols)
    assert symbols[0] == PAD
    assert set("abcxyz,.?! ") < set(symbols)
    assert not any(symbol.isupper() for symbol in symbols if len(symbol) == 1)


def test_a_wrong_language_is_named() -> None:
    with pytest.raises(UserError, match=r"data.cleaners=english_cleaners is for English, and data.language=de; leave"):
        symbols_of("english_cleaners", "de", None)
    with pytest.raises(UserError, match=r"data.language=xx: its letters are not known here, only those of de, es"):
        symbols_of("language_cleaners", "xx", None)
    assert "ŵ" in symbols_of("language_cleaners", "cy", "abŵ")
    with pytest.raises(UserError, match=r"'language_cleaner' is unknown; did you mean 'language_cleaners'"):
        encode("a", "language_cleaner")


def test_letters_start_from_sounds_that_english_has() -> None:
    for (ours, theirs), alike in ALIKE.items():
        assert theirs == "english_arpabet"
        assert set(alike.values()) <= set(SYMBOLS)
        used = set("".join(language.letters for language in LANGUAGES.values())) | set("abcdefghijklmnopqrstuvwxyz")
        if ours == "language_cleaners":
            assert len(used - set(alike)) < 20, used - set(alike)


# A voice


SENTENCES = [
    "Über den Wolken.", "Das Wetter ist schön.", "Er zählt zwölf Äpfel.", "Die Straße ist naß.", "Wir hören Musik.",
    "Fünf Vögel singen.", "Ein kühler Tag.", "Grüße an alle.",
]  # fmt: skip


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus, and the run directory of a tiny Tacotron 2 after 2 steps."""
    root = tmp_path_factory.mktemp("german")
    corpus = prepare(write_corpus(root / "corpus", SENTENCES))
    options = ("data.language=de", "trainer.max_steps=2")
    run_here(*train_command(corpus, root / "run", TINY_TACOTRON2, *options))
    return corpus, root / "run"


@needs_num2words
@pytest.mark.slow
def test_a_german_voice_is_trained_and_speaks(german: tuple[Path, Path], tmp_path: Path) -> None:
    """Takes 10 seconds: a training, and three commands that use it."""
    corpus, run = german
    assert read_log(run)
    text = files.load(files.find(run)).text
    assert (text.language, text.cleaners) == ("de", "language_cleaners")
    assert text.symbols == symbols_of("language_cleaners", "de", None)
    (tmp_path / "phrases.txt").write_text("Am 3. Mai, um 10:30 Uhr, singen 12 Vögel.\n")
    command = ("inference.py", f"tacotron2={run}", "vocoder=griffin_lim", f"input={tmp_path / 'phrases.txt'}")
    options = (f"output={tmp_path / 'out'}", "max_decoder_steps=10", "attempts=1", "pictures=false")
    run_here(*command, *options, expect=NOT_READ_RIGHT)
    assert (tmp_path / "out/0000.wav").stat().st_size > 1000
    voice = Synthesizer.load(run, device="cpu")
    assert voice.reader.language == "de"
    said = ids_to_text(voice.ids("Am 3. Mai, um 10:30 Uhr, singen 12 Vögel."), voice.symbols)
    assert said == "am dritten mai, um zehn uhr dreißig, singen zwölf vögel."
    reader = Reader(voice.cleaners, voice.symbols, language="de")
    pieces = [read.piece.text for read in reader.read("Er kam am 3. Mai. Dr. Weber ging z. B. heim.")]
    assert pieces == ["Er kam am 3. Mai.", "Dr. Weber ging z. B. heim."]
    fails_with(
        run_here(*train_command(corpus, run, TINY_TACOTRON2, "data.language=nl"), expect=1),
        "was trained with data.language=de, not nl",
    )


def test_the_language_is_in_the_voice_and_the_server_tells_it(german: tuple[Path, Path], tmp_path: Path) -> None:
    run_here("scripts/pack_voice.py", f"tacotron2={german[1]}", f"output={tmp_path / 'voices/anna'}")
    assert "- Language: de.\n" in (tmp_path / "voices/anna/README.md").read_text()
    assert Shelf(tmp_path / "voices", {}, lambda voice: Synthesizer.load(voice)).language("anna") == "de"
    checkpoint = formats.load(tmp_path / "voices/anna/tacotron2.safetensors", [TACOTRON2])
    assert checkpoint.text.language == "de"


def test_a_checkpoint_of_an_earlier_version_has_no_language(german: tuple[Path, Path]) -> None:
    contents = files.load(files.find(german[1])).to_dict()
    del contents["text"]["language"]
    assert Checkpoint.from_dict(contents).text.language == ""
    contents["text"]["language"] = 5
    with pytest.raises(TypeError, match="language is of type int"):
        Checkpoint.from_dict(contents)


@pytest.mark.slow
def test_a_warm_start_from_arpabet_takes_the_nearest_sounds(german: tuple[Path, Path], tmp_path: Path) -> None:
    """Takes 5 seconds, for two trainings of no step."""
    corpus, _ = german
    english = [*TINY_TACOTRON2, "data.cleaners=english_arpabet"]
    run_here(*train_command(corpus, tmp_path / "en", english, "trainer.max_steps=1"))
    warm = ("data.language=de", "trainer.max_steps=1", "trainer.learning_rate=1e-12", "warm_start=true")
    result = run_here(*train_command(corpus, tmp_path / "de", TINY_TACOTRON2, *warm, f"init_from={tmp_path / 'en'}"))
    assert "30 of them from symbols that sound alike; new rows for none" in result.stdout
    ours, theirs = (files.load(files.find(tmp_path / name)) for name in ("de", "en"))
    rows = [c.state_dict["embedding.weight"] for c in (ours, theirs)]

    def row(index: int, symbol: str) -> torch.Tensor:
        text = (ours, theirs)[index].text
        return rows[index][text.symbols.index(symbol)]

    for mine, english_symbol in (("ß", "@S"), ("ü", "@UW1"), ("k", "@K"), (",", ","), ("@AA1", "@AA1")):
        assert torch.allclose(row(0, mine), row(1, english_symbol), atol=1e-6), mine


def test_ssml_is_in_the_language_of_the_voice() -> None:
    document = '<speak xml:lang="de-DE">Guten Tag</speak>'
    assert parse(document, language="de")[0].text == parse(document, language="")[0].text == "Guten Tag"
    with pytest.raises(UserError, match="'de-DE' is not the language of the voice; use en"):
        parse(document)
    said = '<speak><say-as interpret-as="cardinal">5</say-as></speak>'
    with pytest.raises(UserError, match="say-as is read in English, and the voice speaks de; write the words"):
        parse(said, language="de")
    assert parse(said, language="")[0].text == "five"


def test_long_sentences_are_cut_between_phrases_of_the_language() -> None:
    assert CONJUNCTIONS.keys() == PHRASES.keys() == LEADING.keys()
    symbols = symbols_of("basic_cleaners", "de", None)
    reader = Reader("basic_cleaners", symbols, 60, language="de")
    text = "Der alte Mann ging langsam durch den dunklen Wald und seine kleine Tochter wartete lange zu Hause"
    assert [read.piece.text for read in reader.read(text)] == [
        "Der alte Mann ging langsam durch den dunklen Wald",
        "und seine kleine Tochter wartete lange zu Hause",
    ]


# The dataset check


TEXTS = {
    "de": "Der Mann ist nicht mit dem Hund in den Wald gegangen, und die Frau hat auf sie für eine Stunde gewartet.",
    "es": "El perro de la casa no es el que los niños vieron en la calle con una pelota, y por eso se fue.",
    "en": "The man was not with his dog in the wood, and she had to wait for it at the house for an hour.",
    "fr": "Le chien de la maison n'est pas dans le jardin, et les enfants qui sont sur la route ne le voient pas.",
}


def test_transcripts_in_another_language_are_found() -> None:
    for code, text in TEXTS.items():
        for said in WORDS:
            cleaners = "english_cleaners" if said == "en" else "language_cleaners"
            data = DataConfig(language=said, cleaners=cleaners)
            found = other_language([text] * 20, data)
            assert bool(found) == (said != code), (code, said)
            assert not found or f"Set data.language={code} " in found[0]
            assert other_language([text], data) == []  # too few words
    unknown = DataConfig(language="en", cleaners="basic_cleaners")
    assert other_language([TEXTS["de"]] * 20, unknown) == []


@pytest.mark.slow
def test_the_dataset_check_names_data_language(german: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(german[0], corpus)
    for name in ("train", "val"):
        path = corpus / f"filelists/{name}.txt"
        rows = [f"{line.split('|')[0]}|{TEXTS['de']} {k}" for k, line in enumerate(path.read_text().splitlines())]
        path.write_text("\n".join(rows) + "\n")
    command = ("scripts/check_dataset.py", f"data.root={corpus}", f"output={tmp_path / 'out'}", "num_processes=1")
    run_here(*command, expect=1)
    assert "the transcripts look German, and data.language=en" in (tmp_path / "out/report.txt").read_text()
    run_here(*command, "data.cleaners=basic_cleaners", expect=(0, 1))
    report = (tmp_path / "out/report.txt").read_text()
    assert "or those of a language: data.language=de es fr" in report
