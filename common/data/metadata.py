"""Reads metadata.csv of a corpus in LJSpeech's layout."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from common.data.filelist import AUDIO_SUFFIXES, SAME, file_problem, leaves, normal, raise_problems, read_lines, shown
from common.errors import UserError
from common.wording import counted

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
FORMAT = "a row is id|text or id|raw text|text as read, for wavs/id.wav, without a header"
WITH_SPEAKERS = "a row is id|text|speaker or id|raw text|text as read|speaker, or has the speaker before the text"
# Rewrite a table in our format, into a copy. "{0}" is the file, "{1}" its separator.
CONVERT_TABLE = (
    "python -c \"import csv; rows = csv.reader(open(0, encoding='utf-8-sig', newline=''), delimiter='{1}'); "
    "open(1, 'w', encoding='utf-8').writelines('|'.join(' '.join(cell.split()) for cell in row) + chr(10) "
    'for row in rows if row)" < {0} > {0}.new'
)
CONVERT_FIRST = "sed 's/{1}/|/' {0} > {0}.new"
SpeakerSource = Literal["folders", "column"]  # what says who speaks: the first folder of an id, or a column


class Entry(NamedTuple):
    """A row of metadata.csv, with its line number."""

    number: int
    clip: str
    texts: list[str]
    speaker: str = ""


class MetadataRow(NamedTuple):
    """A clip as its row describes it."""

    clip: str  # its id
    path: str  # relative to the corpus
    text: str
    speaker: str = ""  # "": the corpus has one


def read_metadata(corpus: Path, speakers: SpeakerSource | None = None) -> list[MetadataRow]:
    """The rows of metadata.csv. The transcript is the last column, or the last one besides that of the speakers.

    An id may name a clip in a folder below wavs/, such as speaker1/a.

    Raise a UserError if the file has another format, or with the first ten rows that are wrong.
    """
    metadata = corpus / "metadata.csv"
    entries = read_entries(metadata)
    if speakers == "column":
        entries = _without_column(metadata, entries)
    if speakers == "folders":
        entries = [entry._replace(speaker=entry.clip.split("/")[0] if "/" in entry.clip else "") for entry in entries]
    rows, problems, seen = [], [], set[str]()
    for number, clip, texts, speaker in entries:
        where = f"{metadata}:{number}"
        files = [f"wavs/{clip}{suffix}" for suffix in AUDIO_SUFFIXES]
        found = [path for path in files if not file_problem(corpus / path)]
        if len(texts) not in (1, 2):
            columns = counted(len(texts) + 1, "column")
            cure = "; if one names the speaker, add --speakers column" if len(texts) == 3 else ""
            problems.append(
                f"{where}: {columns} in {'|'.join([clip, *texts])[:60]!r}; a row is id|text or id|raw|text{cure}"
            )
        elif not texts[-1].strip():
            problems.append(f"{where}: the transcript of {shown(clip)} is empty; write what is said, or remove the row")
        elif clip in seen:
            problems.append(f"{where}: {clip} is already in a row above; remove one of the rows")
        elif not found:
            problems.append(f"{where}: {_missing(corpus, clip, number == entries[0].number)}")
        elif speakers and not speaker:
            folder = "is in no folder below wavs/; move it to wavs/SPEAKER/" if speakers == "folders" else "has none"
            problems.append(f"{where}: the row must name its speaker, but {shown(clip)} {folder}, or remove the row")
        else:
            seen.add(clip)
            rows.append(MetadataRow(clip, found[0], texts[-1].strip(), speaker))
    raise_problems(problems)
    if problem := column_problem(metadata, entries):
        raise UserError(problem)
    return rows


def _without_column(metadata: Path, entries: Sequence[Entry]) -> list[Entry]:
    """`entries` with the speakers' column moved to `speaker`: the one with the fewest different values."""
    width = max(len(entry.texts) for entry in entries)
    raise_problems(
        [
            f"{metadata}:{number}: {counted(len(texts) + 1, 'column')}, others have {width + 1}; {WITH_SPEAKERS}"
            for number, _, texts, _ in entries
            if len(texts) != width or width not in (2, 3)
        ]
    )
    different = [len({entry.texts[column].strip() for entry in entries}) for column in range(width)]
    column = min(reversed(range(width)), key=different.__getitem__)  # if in doubt, the last one
    if different[column] > SAME * len(entries):
        raise UserError(
            f"metadata {metadata}: no column names speakers: each holds {different[column]:,} or more different values "
            f"in {len(entries):,} rows; {WITH_SPEAKERS}"
        )
    return [
        entry._replace(texts=entry.texts[:column] + entry.texts[column + 1 :], speaker=entry.texts[column].strip())
        for entry in entries
    ]


def without_row(corpus: Path, paths: Sequence[str]) -> list[str]:
    """The audio files below wavs/ that `paths`, relative to the corpus, do not name."""
    found = (path for path in (corpus / "wavs").rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return sorted({str(path.relative_to(corpus)) for path in found} - {*paths})


def read_entries(metadata: Path) -> list[Entry]:
    """The rows of metadata.csv.

    Raise a UserError that names the conversion if the columns are not separated by |, or the rows that leave wavs/.
    """
    lines = read_lines(metadata, "metadata")
    if not any("|" in line for _, line in lines):
        for separator, name in SEPARATORS.items():
            if sum(separator in line for _, line in lines) > 0.9 * len(lines):
                cure = _conversion(metadata, [line for _, line in lines], separator)
                raise UserError(f"metadata {metadata}: its columns are separated by {name}, not by |; {FORMAT}. {cure}")
        raise UserError(f"metadata {metadata}: no row has a |; {FORMAT}")
    if all(line.startswith('"') and '"|' in line for _, line in lines):
        cure = _conversion(metadata, [line for _, line in lines], "|")
        raise UserError(f"metadata {metadata}: its columns are in quotes; {FORMAT}. {cure}")
    split = ((number, line.split("|")) for number, line in lines)
    entries = [Entry(number, normal(clip), texts) for number, (clip, *texts) in split]
    raise_problems(
        [
            f"{metadata}:{entry.number}: the id {shown(entry.clip)} is not the name of a clip below wavs/; write it "
            "without '..' and without a leading slash, or remove the row"
            for entry in entries
            if leaves(entry.clip)
        ]
    )
    return entries


def _conversion(metadata: Path, lines: Sequence[str], separator: str) -> str:
    """The command that converts the file into a copy.

    Where transcripts hold the separator without being quoted, only the first separator of a row is one between columns.
    """
    rows = list(csv.reader(lines, delimiter=separator))
    is_table = len(rows) == len(lines) and {len(row) for row in rows} in ({2}, {3})
    command = CONVERT_TABLE if is_table else CONVERT_FIRST
    written, file = separator.replace("\t", "\\t"), shlex.quote(str(metadata))
    return (
        f"Convert it into {metadata}.new, look at the result, and rename it to {metadata.name}: "
        f"{command.format(file, written)}"
    )


def _missing(corpus: Path, clip: str, is_first: bool) -> str:
    """What is wrong with a row whose clip does not exist."""
    suffix = Path(clip[-10:]).suffix
    if suffix.lower() in AUDIO_SUFFIXES and not file_problem(corpus / "wavs" / clip):
        metadata = corpus / "metadata.csv"
        return f"the id {clip} ends in {suffix}; leave that out in all rows: sed -i 's/\\{suffix}|/|/' {metadata}"
    more = "if this is a header, remove the line" if is_first else FORMAT
    return f"no {shown(f'wavs/{clip[:60]}')}.wav (or {', '.join(AUDIO_SUFFIXES[1:])}); add it or remove the row; {more}"


def column_problem(metadata: Path, entries: Sequence[Entry]) -> str:
    """Say so if one of two text columns holds speakers: a few values again and again, beside texts that differ."""
    rows = [entry for entry in entries if len(entry.texts) == 2]
    if len(rows) < 4 or len(rows) < len(entries):
        return ""
    middle, last = ({entry.texts[column].strip() for entry in rows} for column in (0, 1))
    few = SAME * len(rows)
    if len(last) <= few < len(middle):
        return (
            f"metadata {metadata}, {_lines(rows)}: the last column should be the transcript, but holds "
            f"{counted(len(last), 'value')} in {len(rows):,} rows ({_some(last)}), while the one before it differs in "
            f"each row. If the rows are id|text|speaker, add --speakers column ({_command(metadata)}), for a model of "
            f"several speakers; if all are one voice, write id|text: cut -d'|' -f1,2 {metadata} > new.csv && "
            f"mv new.csv {metadata}"
        )
    if 1 < len(middle) <= few < len(last):
        return (
            f"metadata {metadata}, {_lines(rows)}: the second column holds {counted(len(middle), 'value')} in "
            f"{len(rows):,} rows ({_some(middle)}). If they are speakers, a model would mix their voices: add "
            f"--speakers column ({_command(metadata)}). If they are not, remove the column: cut -d'|' -f1,3 "
            f"{metadata} > new.csv && mv new.csv {metadata}"
        )
    return ""


def _command(metadata: Path) -> str:
    return f"bash scripts/prepare_dataset.sh {shlex.quote(str(metadata.parent))} --speakers column"


def _lines(rows: Sequence[Entry]) -> str:
    return f"lines {rows[0].number} to {rows[-1].number}"


def _some(values: set[str]) -> str:
    shown = sorted(values)[:4]
    return ", ".join(repr(value[:30]) for value in shown) + (", ..." if len(values) > len(shown) else "")
