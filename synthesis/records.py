"""What an output folder of inference.py holds, by its logs: lines that are done, by one or by several processes.

A log is `log.jsonl`, or `log.K.jsonl` of process K of several. It has a row with the config and the files of each run,
and a row for each line, which is written when the files of the line are on the disk. So a line is done if a log has its
row. A run that does not resume another starts afresh: the rows before its own do not count.
"""

from __future__ import annotations

import json
import os
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import replacing

MANIFEST = "manifest.jsonl"
_LOG = re.compile(r"log(\.\d+)?\.jsonl")
# Text comes behind these keys, and its quotes are escaped.
_HEADER = re.compile(rb'\{"time": [\d.]+, "config": \{')
_LINE = re.compile(rb'\{"time": [\d.]+, ("file": "[^"]*", )?"line": (\d+)[,}]')
_FILE = re.compile(rb'"file": "((?:\d{2,}/){0,2}\d{4,}\.wav)"')


@dataclass
class Log:
    """One log: its last header, and where the rows of the lines that count are."""

    path: Path
    header: dict[str, Any] | None
    start: int  # bytes in front of the rows that count
    num_rows: int

    def rows(self) -> Iterator[tuple[int, int]]:
        """(number of the line in the phrase file, byte offset in the log) of each row that counts."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            yield from _rows(file, self.start)


def _rows(file: Any, offset: int) -> Iterator[tuple[int, int]]:
    for row in file:
        if (match := _LINE.match(row)) and row.endswith(b"}\n"):
            yield int(match[2]), offset
        offset += len(row)


def read_log(path: Path) -> Log:
    header, start, num_rows, offset = None, 0, 0, 0
    with open(path, "rb") as file:
        for row in file:
            if _LINE.match(row):
                num_rows += row.endswith(b"}\n")
            elif _HEADER.match(row) and (values := _parsed(row)):
                header = values
                if not values.get("resumed"):
                    start, num_rows = offset, 0
            offset += len(row)
    return Log(path, header, start, num_rows)


def _parsed(row: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(row)
    except ValueError:  # cut off, or damaged
        return None
    return values if isinstance(values, dict) else None


def read_logs(output: Path) -> list[Log]:
    names = sorted(entry.name for entry in os.scandir(output)) if output.is_dir() else []
    return [read_log(output / name) for name in names if _LOG.fullmatch(name)]


def done_lines(logs: list[Log], last_line: int) -> bytearray:
    """(last_line + 1) 1 for each line of the phrase file that has a row."""
    done = bytearray(last_line + 1)
    for log in logs:
        for line, _ in log.rows():
            if line <= last_line:
                done[line] = 1
    return done


def repair(path: Path) -> None:
    """Cut off a row without an end, which a power failure may leave; the next row would be glued to it."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)


def listed_files(path: Path, end: int) -> Iterator[str]:
    """The wavs that the first `end` bytes of a log list, by their names in its folder."""
    offset = 0
    with open(path, "rb") as file:
        for row in file:
            offset += len(row)
            if offset > end:
                return
            if match := _FILE.search(row):
                yield match[1].decode()


def write_manifest(output: Path, logs: list[Log], last_line: int) -> None:
    """Write the rows of all logs to one file, in the order of the phrase file, one for each line."""
    places = array("Q", bytes(8 * (last_line + 1)))  # byte offset + 1, and above it the log
    for k, log in enumerate(logs):
        for line, offset in log.rows():
            if line <= last_line:
                places[line] = (k << 48) + offset + 1
    files = [open(log.path, "rb") for log in logs]  # noqa: SIM115 # closed below
    try:
        with replacing(output / MANIFEST) as temporary, open(temporary, "wb") as manifest:
            for place in filter(None, places):
                file = files[place >> 48]
                file.seek((place & (2**48 - 1)) - 1)
                manifest.write(file.readline())
    finally:
        for file in files:
            file.close()
