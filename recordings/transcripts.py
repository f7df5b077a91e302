"""Finds the transcripts of recordings, in the layouts that corpora and recording programs have.

The layouts, in the order in which they are looked for: LJSpeech (metadata.csv), Mozilla Common Voice (clips/ and a
TSV), VCTK (txt/SPEAKER/), a table with a header, and a text file beside each recording. Without any, all texts
are None.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.data.filelist import read_lines
from common.errors import UserError, did_you_mean
from common.wording import counted
from recordings.sources import name_of, named

FILE_COLUMNS = ("path", "file", "filename", "file_name", "audio", "wav", "clip", "audio_file")
TEXT_COLUMNS = ("normalized_text", "sentence", "text", "transcript", "transcription")
SPEAKER_COLUMNS = ("speaker", "client_id", "speaker_id")
COMMON_VOICE_TABLES = ("validated.tsv", "train.tsv")
VCTK_AUDIO = ("wav48_silence_trimmed", "wav48")
BESIDE = (".txt", ".lab")
NONE = "no transcripts"
MIN_SHARE = 0.5  # of the recordings must have a text if any has: otherwise the transcripts are those of something else


@dataclass(frozen=True)
class Transcript:
    """What is said in a recording, and who says it; None if that is not known."""

    text: str | None
    speaker: str | None = None


@dataclass(frozen=True)
class Transcripts:
    """The recordings that belong to the corpus, each with its transcript, and the layout in words."""

    layout: str
    of: dict[Path, Transcript]

    @property
    def num_texts(self) -> int:
        return sum(transcript.text is not None for transcript in self.of.values())


def read_transcripts(folder: Path, files: Sequence[Path], speaker: str | None = None) -> Transcripts:
    """The transcripts of the audio `files` below `folder`; with `speaker`, of that speaker's recordings only.

    Raises UserError if a table names files that are not there, if fewer than half of the recordings have a text, or if
    there are several speakers and none is chosen.
    """
    found = next(filter(None, (read(folder, files) for read in READERS)), None)
    if found is None:
        _refuse_unknown_tables(folder, files)
        found = Transcripts(NONE, dict.fromkeys(files, Transcript(None)))
    found = _of_one_speaker(folder, found, speaker)
    if found.layout != NONE and found.num_texts < MIN_SHARE * len(found.of):
        without = [path.relative_to(folder) for path, transcript in found.of.items() if transcript.text is None]
        raise UserError(
            f"recordings={folder}: only {found.num_texts:,} of {counted(len(found.of), 'recording')} have a transcript "
            f"({found.layout}); without one are {named(without)}. Add theirs, remove these recordings, or remove all "
            "transcripts to have all of them written by Whisper"
        )
    return found


def _of_one_speaker(folder: Path, found: Transcripts, speaker: str | None) -> Transcripts:
    speakers = Counter(transcript.speaker for transcript in found.of.values() if transcript.speaker is not None)
    if speaker is not None:
        if speaker not in speakers:
            if not speakers:
                raise UserError(f"speaker={speaker!r}: the transcripts name no speakers; leave speaker= out")
            raise UserError(f"speaker={speaker!r} is unknown{did_you_mean(speaker, sorted(speakers))}")
        return Transcripts(found.layout, {path: t for path, t in found.of.items() if t.speaker == speaker})
    if len(speakers) > 1:
        most = ", ".join(f"{name} ({number:,})" for name, number in speakers.most_common(MAX_SPEAKERS))
        more = ", ..." if len(speakers) > MAX_SPEAKERS else ""
        raise UserError(
            f"recordings={folder}: {len(speakers):,} speakers, but a voice has one; choose one with speaker=NAME: "
            f"{most}{more}"
        )
    return found


MAX_SPEAKERS = 6  # in a message


def one_line(text: str) -> str:
    """A text as a row of metadata.csv can hold it: one line, without the sign between columns."""
    return " ".join(text.replace("|", " ").split())


def _texts(rows: Iterable[tuple[Path, str, str | None]]) -> dict[Path, Transcript]:
    return {path: Transcript(one_line(text) or None, speaker) for path, text, speaker in rows}


def _complete(files: Sequence[Path], known: dict[Path, Transcript]) -> dict[Path, Transcript]:
    """All files, in order; those that are not `known` have no text."""
    return {path: known.get(path, Transcript(None)) for path in files}


def _refuse_absent(table: Path, absent: Sequence[str], number: int) -> None:
    if absent:
        raise UserError(
            f"{table}: {len(absent):,} of the {counted(number, 'file')} that it names are not there: {named(absent)}; "
            "add them, or remove their rows"
        )


def _ljspeech(folder: Path, files: Sequence[Path]) -> Transcripts | None:
    """metadata.csv with rows name|text or name|raw|text, for wavs/name or name."""
    table = folder / "metadata.csv"
    if not table.is_file():
        return None
    lines = read_lines(table, "transcripts")
    if sum("|" in line for _, line in lines) < 0.9 * len(lines) or _header(lines[0][1], "|"):
        return None  # a table with a header, perhaps
    by_name = {name_of(folder, path): path for path in files} | {
        path.relative_to(folder).as_posix(): path for path in files
    }
    rows, absent = [], []
    for _, line in lines:
        name, *texts = line.split("|")
        path = by_name.get(f"wavs/{name}") or by_name.get(name)
        if path is None:
            absent.append(name)
        elif texts:
            rows.append((path, texts[-1], None))
    _refuse_absent(table, absent, len(lines))
    return Transcripts("metadata.csv as LJSpeech has it", _complete(files, _texts(rows)))


def _common_voice(folder: Path, files: Sequence[Path]) -> Transcripts | None:
    """clips/ with validated.tsv or train.tsv; clips that it does not list were not confirmed, and are left out."""
    table = next((folder / name for name in COMMON_VOICE_TABLES if (folder / name).is_file()), None)
    if table is None or not (folder / "clips").is_dir():
        return None
    rows = _read_table(folder, table, files, "\t")
    if rows is None:
        return None
    return Transcripts(f"{table.name} as Mozilla Common Voice has it", {path: t for path, t in rows.items() if t.text})


def _vctk(folder: Path, files: Sequence[Path]) -> Transcripts | None:
    """txt/p225/p225_001.txt for wav48*/p225/p225_001*; of two microphones the first is taken."""
    audio = next((folder / name for name in VCTK_AUDIO if (folder / name).is_dir()), None)
    if audio is None or not (folder / "txt").is_dir():
        return None
    found = {}
    for path in files:
        if path.is_relative_to(audio) and not path.stem.endswith("_mic2"):
            text = folder / "txt" / path.parent.name / f"{path.stem.removesuffix('_mic1')}.txt"
            words = one_line(_read_text(text)) if text.is_file() else ""
            found[path] = Transcript(words or None, path.parent.name)
    return Transcripts("txt/SPEAKER/ as VCTK has it", found) if found else None


def _table(folder: Path, files: Sequence[Path]) -> Transcripts | None:
    """The only table of the folder whose header names a column of files and one of texts."""
    tables = _tables(folder)
    found = [(path, rows) for path in tables if (rows := _read_table(folder, path, files)) is not None]
    if len(found) > 1:
        names = " and ".join(path.name for path, _ in found)
        raise UserError(f"recordings={folder}: {names} hold transcripts; leave one of them in the folder")
    for path, rows in found:
        return Transcripts(f"the table {path.name}", _complete(files, rows))
    return None


def _tables(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".csv", ".tsv") and path.is_file()]


def _refuse_unknown_tables(folder: Path, files: Sequence[Path]) -> None:
    """Raise a UserError for a table that seems to hold transcripts: most rows begin with the name of a recording, and
    have words after it."""
    names = _by_any_name(folder, files)
    for table in _tables(folder):
        lines = [line for _, line in read_lines(table, "transcripts")]
        rows = [re.split(r"[\t|;,]", line, maxsplit=1) for line in lines]
        said = [row for row in rows if len(row) == 2 and re.search(r"[^\W\d_]+\W+[^\W\d_]+", row[1])]
        if sum(row[0].strip().strip('"').removeprefix("./") in names for row in said) > len(rows) / 2:
            raise UserError(
                f"{table}: its rows seem to be transcripts, but its first line, {lines[0][:80]!r}, does not name the "
                "columns; make it a line such as file,text, or remove the table to have the texts written by Whisper"
            )


def _header(line: str, separator: str) -> tuple[int, int, int | None] | None:
    """The columns of files, texts and speakers, if the first line of a table names them."""
    cells = [cell.strip().strip('"').lower() for cell in next(csv.reader([line], delimiter=separator))]

    def column(names: Sequence[str]) -> int | None:
        return next((cells.index(name) for name in names if name in cells), None)

    file, text = column(FILE_COLUMNS), column(TEXT_COLUMNS)
    return None if file is None or text is None else (file, text, column(SPEAKER_COLUMNS))


def _read_table(folder: Path, table: Path, files: Sequence[Path], separator: str = "") -> dict[Path, Transcript] | None:
    """The rows of a table with a header; None if it has no header that names what is needed."""
    lines = [line for _, line in read_lines(table, "transcripts")]
    separators = [separator] if separator else ["\t", "|", ";", ","]
    separator = next((s for s in separators if _header(lines[0], s)), "")
    if not separator:
        return None
    columns = _header(lines[0], separator)
    assert columns is not None
    is_quoted = separator in ";," or lines[0].startswith('"')
    file_column, text_column, speaker_column = columns
    rows: list[tuple[str, str, str | None]] = []
    reader = csv.reader(lines[1:], delimiter=separator, quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE)
    for cells in _cells(table, reader):
        if len(cells) <= max(file_column, text_column):
            continue
        speaker = None
        if speaker_column is not None and len(cells) > speaker_column:
            speaker = cells[speaker_column].strip() or None
        rows.append((cells[file_column].strip().removeprefix("./"), cells[text_column], speaker))
    return _texts(_with_paths(table, rows, _by_any_name(folder, files), len(lines) - 1))


def _cells(table: Path, rows: Iterator[list[str]]) -> Iterator[list[str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise UserError(f"{table}: it is no table ({error}); is there a quote that is not closed?") from error


def _with_paths(
    table: Path, rows: Sequence[tuple[str, str, str | None]], by_name: dict[str, Path], number: int
) -> list[tuple[Path, str, str | None]]:
    """The rows with the paths of their files. A name with folders that are not there may mean the file of that name
    elsewhere, unless another row names that file."""
    exact = {by_name[name] for name, _, _ in rows if name in by_name}
    taken: dict[Path, tuple[str, str]] = {}
    found, absent = [], []
    for name, text, speaker in rows:
        path = by_name.get(name) or by_name.get(name.rpartition("/")[2])
        if path is None or (name not in by_name and path in exact):
            absent.append(name)
            continue
        other, said = taken.setdefault(path, (name, text))
        if said != text:
            raise UserError(f"{table}: the rows {other} and {name} have different texts for {path}; remove one of them")
        found.append((path, text, speaker))
    _refuse_absent(table, absent, number)
    return found


def _by_any_name(folder: Path, files: Sequence[Path]) -> dict[str, Path]:
    """What a table may call a file -> the file: its path below the folder or its name, with or without the suffix."""
    names: dict[str, Path] = {}
    count = Counter(path.stem for path in files)
    for path in files:
        if count[path.stem] == 1:
            names |= {path.stem: path, path.name: path}
    for path in files:
        names |= {name_of(folder, path): path, path.relative_to(folder).as_posix(): path}
    return names


def _beside(folder: Path, files: Sequence[Path]) -> Transcripts | None:
    """a.txt or a.lab beside a.wav."""
    found = {}
    for path in files:
        text = next((path.with_suffix(suffix) for suffix in BESIDE if path.with_suffix(suffix).is_file()), None)
        if text is not None:
            found[path] = Transcript(one_line(_read_text(text)) or None)
    return Transcripts("a text file beside each recording", _complete(files, found)) if found else None


def _read_text(path: Path) -> str:
    if not path.stat().st_size:
        return ""
    lines = [line for _, line in read_lines(path, "transcript")]
    if all(re.match(r"\d+(\.\d+)?\s+\d+(\.\d+)?\s+\S+$", line) for line in lines):
        raise UserError(
            f"{path}: it holds times and labels, not the text that is said; replace it with the text or remove it"
        )
    return " ".join(lines)


Reader = Callable[[Path, Sequence[Path]], Transcripts | None]
READERS: tuple[Reader, ...] = (_ljspeech, _common_voice, _vctk, _table, _beside)
