"""Transcripts are found in every layout; tables that do not fit the files, and several speakers, are refused."""

from pathlib import Path

import pytest

from common.errors import UserError
from recordings.transcripts import NONE, Transcripts, read_transcripts


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def texts(folder: Path, paths: list[Path], speaker: str | None = None) -> dict[str, str | None]:
    found = read_transcripts(folder, paths, speaker)
    return {path.relative_to(folder).as_posix(): transcript.text for path, transcript in found.of.items()}


def layout(folder: Path, paths: list[Path]) -> str:
    found: Transcripts = read_transcripts(folder, paths)
    return found.layout


def refused(folder: Path, paths: list[Path], speaker: str | None = None) -> str:
    with pytest.raises(UserError) as error:
        read_transcripts(folder, paths, speaker)
    return str(error.value)


def test_none(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "b.wav")
    (tmp_path / "README.txt").write_text("no transcript")
    assert texts(tmp_path, paths) == {"a.wav": None, "b.wav": None}
    assert layout(tmp_path, paths) == NONE


def test_ljspeech(tmp_path: Path) -> None:
    paths = files(tmp_path, "wavs/a.wav", "wavs/b.flac", "wavs/c.wav")
    (tmp_path / "metadata.csv").write_text("a|It's 5.|It's  five.\nb|Two, three.\n", encoding="utf-8-sig")
    assert texts(tmp_path, paths) == {"wavs/a.wav": "It's five.", "wavs/b.flac": "Two, three.", "wavs/c.wav": None}
    assert "LJSpeech" in layout(tmp_path, paths)


def test_a_text_beside_each_file(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "deep/b.mp3")
    (tmp_path / "a.txt").write_text("One line,\nand | another.\n")
    (tmp_path / "deep/b.lab").write_text("SOMETHING ELSE\n")
    assert texts(tmp_path, paths) == {"a.wav": "One line, and another.", "deep/b.mp3": "SOMETHING ELSE"}


def test_a_label_file_with_times(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav")
    (tmp_path / "a.lab").write_text("0 12000 sil\n12000 30000 hello\n")
    assert "times and labels" in refused(tmp_path, paths)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", 'filename,transcription\na.wav,"Yes, it is."\nsub/b.wav,"He said ""no"".'),
        ("list.tsv", 'id\tText\tPath\n1\tYes, it is.\ta.wav\n2\tHe said "no".\tsub/b.wav\n'),
        ("metadata.csv", 'file|text\na|Yes, it is.\nb|He said "no".\n'),
        ("data.csv", 'clip;length;sentence\n./a.wav;3;Yes, it is.\nelsewhere/b.wav;4;"He said ""no""."\n'),
    ],
)
def test_tables_with_a_header(name: str, content: str, tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "sub/b.wav")
    (tmp_path / name).write_text(content)
    assert texts(tmp_path, paths) == {"a.wav": "Yes, it is.", "sub/b.wav": 'He said "no".'}
    assert name in layout(tmp_path, paths)


def test_a_table_without_these_columns_is_none_of_ours(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav")
    (tmp_path / "budget.csv").write_text("month,sum\nmay,3\n")
    (tmp_path / "levels.csv").write_text("file,duration,gain\na.wav,4.0,1\n")
    (tmp_path / "chapters.csv").write_text("a,The First Chapter\nb,Of Something\nc,And So On\n")
    assert layout(tmp_path, paths) == NONE


@pytest.mark.parametrize("content", ["a.wav,Hello there.\nsub/b.wav,Yes I do.\n", "id,text\na,Oh no.\nsub/b,Oh yes.\n"])
def test_a_table_of_recordings_whose_columns_are_not_known_is_refused(content: str, tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "sub/b.wav")
    (tmp_path / "metadata.csv").write_text(content)
    assert "make it a line such as file,text, or remove the table" in refused(tmp_path, paths)


def test_a_row_never_takes_the_file_of_another(tmp_path: Path) -> None:
    paths = files(tmp_path, "a/001.wav")
    (tmp_path / "list.csv").write_text("file,text\na/001.wav,first\nb/001.wav,second\n")
    assert "1 of the 2 files that it names are not there: b/001.wav" in refused(tmp_path, paths)
    (tmp_path / "list.csv").write_text("file,text\nx/001.wav,first\ny/001.wav,second\n")
    assert "the rows x/001.wav and y/001.wav have different texts" in refused(tmp_path, paths)


def test_a_table_with_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav")
    (tmp_path / "list.csv").write_text(f'file,text\na.wav,"{"never closed " * 20_000}\n')
    assert "is there a quote that is not closed?" in refused(tmp_path, paths)


def test_two_tables(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav")
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("path,text\na.wav,Hello.\n")
    assert "one.csv and two.csv" in refused(tmp_path, paths)


def test_common_voice(tmp_path: Path) -> None:
    paths = files(tmp_path, "clips/en_1.mp3", "clips/en_2.mp3", "clips/en_3.mp3")
    header = "client_id\tpath\tsentence\tup_votes\n"
    (tmp_path / "validated.tsv").write_text(f'{header}x\ten_1.mp3\tA "quote.\t2\ny\ten_3.mp3\tThe other.\t2\n')
    (tmp_path / "invalidated.tsv").write_text(f"{header}x\ten_2.mp3\tWrong.\t0\n")
    assert "2 speakers" in refused(tmp_path, paths)
    assert texts(tmp_path, paths, "x") == {"clips/en_1.mp3": 'A "quote.'}  # en_2 was not validated
    assert texts(tmp_path, paths, "y") == {"clips/en_3.mp3": "The other."}


def test_vctk(tmp_path: Path) -> None:
    audio = "wav48_silence_trimmed/{0}/{0}_00{1}_mic{2}.flac"
    paths = files(tmp_path, *(audio.format(p, n, m) for p in ("p225", "p226") for n in (1, 2) for m in (1, 2)))
    for path in paths:
        text = tmp_path / "txt" / path.parent.name / f"{path.stem[:8]}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(f"Words of {path.stem[:8]}.\n")
    message = refused(tmp_path, paths)
    assert "p225 (2), p226 (2)" in message
    assert "speaker=NAME" in message
    assert texts(tmp_path, paths, "p226") == {audio.format("p226", n, 1): f"Words of p226_00{n}." for n in (1, 2)}
    assert "did you mean 'p226'" in refused(tmp_path, paths, "P226")


def test_speakers_of_a_table(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "t.csv").write_text("path,text,speaker\na.wav,One.,anna\nb.wav,Two.,bert\nc.wav,Three.,anna\n")
    assert "anna (2), bert (1)" in refused(tmp_path, paths)
    assert texts(tmp_path, paths, "anna") == {"a.wav": "One.", "c.wav": "Three."}


def test_a_speaker_where_none_is_named(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav")
    assert "name no speakers" in refused(tmp_path, paths, "anna")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "wavs_a|One.\nlost1|Two.\nlost2|Three.\n"),
        ("t.tsv", "path\ttext\nwavs_a\tOne.\nlost1\tTwo.\nlost2\tThree.\n"),
    ],
)
def test_a_table_that_names_absent_files(name: str, content: str, tmp_path: Path) -> None:
    paths = files(tmp_path, "wavs_a.wav")
    (tmp_path / name).write_text(content)
    message = refused(tmp_path, paths)
    assert "2 of the 3 files that it names are not there: lost1, lost2" in message
    assert "remove their rows" in message


def test_few_texts(tmp_path: Path) -> None:
    paths = files(tmp_path, "a.wav", "b.wav", "c.wav")
    (tmp_path / "a.txt").write_text("Alone.")
    message = refused(tmp_path, paths)
    assert "only 1 of 3 recordings" in message
    assert "b.wav, c.wav" in message
