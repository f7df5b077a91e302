"""Measure how often english_cleaners reads numbers as a human reader did: `measure_cleaners.py metadata.csv --show 20`.

The metadata has LJSpeech's columns: id|text as printed|text as read aloud. Only rows whose printed text has a digit or
one of £ $ % & count. A row agrees if both texts have the same words after cleaning.
"""

import checkout  # noqa: F401

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from common.entry import run_command
from common.errors import UserError
from common.wording import counted
from tacotron2.text.cleaners import english_cleaners

HAS_NUMBER = re.compile(r"[0-9£$%&]")


class Row(NamedTuple):
    clip: str
    printed: str
    spoken: str


def words(text: str) -> list[str]:
    """Lower-case words without punctuation: apostrophes and periods are removed, all other marks separate words."""
    return re.findall(r"[a-z0-9]+", re.sub(r"['.]", "", text.lower()))


def number_rows(metadata: Path) -> list[Row]:
    """The rows whose printed text has a number or a sign. Raises UserError for a line without three columns."""
    rows = []
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split("|")
        if len(columns) != 3:
            raise UserError(f"{metadata}:{number}: {counted(len(columns), 'column')}; a row is id|text|text as read")
        rows.append(Row(*columns))
    return [row for row in rows if HAS_NUMBER.search(row.printed)]


def disagreements(rows: list[Row]) -> list[Row]:
    """The rows whose two texts have different words after cleaning."""
    return [row for row in rows if words(english_cleaners(row.printed)) != words(english_cleaners(row.spoken))]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metadata", type=Path, help="metadata.csv of LJSpeech 1.1")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the first N rows that disagree")
    return parser


def main() -> None:
    arguments = parser().parse_args()
    rows = number_rows(arguments.metadata)
    if not rows:
        raise UserError(f"{arguments.metadata}: no row has a digit or one of £ $ % & in its second column")
    different = disagreements(rows)
    for row in different[: arguments.show]:
        print(f"{row.clip}\n  cleaned {english_cleaners(row.printed)}\n  spoken  {english_cleaners(row.spoken)}")
    agreed = len(rows) - len(different)
    print(f"{agreed} of {counted(len(rows), 'row')} agree: {100 * agreed / len(rows):.2f} %")


if __name__ == "__main__":
    run_command(main)
