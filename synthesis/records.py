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
from pathlib import Path
from typing import Any

from common.files import replacing

MANIFEST = "manifest.jsonl"
_LOG = re.compile(r"log(\.\d+)?\.jsonl")
# Text comes behind these keys, and its quotes are escaped.
_HEADER = re.compile(rb'\{"time": [\d.]+, "config": \{')
_LINE = re.compile(rb'\{"time": [\d.]+, ("file": "[^"]*", )?"line": (\d+)[,}]')
_FILE = re.compile(rb'"file": "((?:\d{2,}/){0,2}\d{4,}\.(?:wav|flac|ogg))"')


class Lines:
    """A set of lines of the phrase file, in one bit for each."""

    def __init__(self, last_line: int) -> None:
        self.bits = bytearray(last_line // 8 + 1)

    def add(self, line: int) -> None:
        if line // 8 < len(self.bits):
            self.bits[line // 8] |= 1 << line % 8

    def __contains__(self, line: int) -> bool:
        return bool(self.bits[line // 8] >> line % 8 & 1)

    def __len__(self) -> int:
        return int.from_bytes(self.bits).bit_count()

    def update(self, other: Lines) -> None:
        merged = int.from_bytes(self.bits) | int.from_bytes(other.bits)
        self.bits = bytearray(merged.to_bytes(len(self.bits)))


class Log:
    """One log, as far as it was read: its last header, and which lines have rows that count."""

    def __init__(self, path: Path, last_line: int) -> None:
        self.path, self.last_line = path, last_line
        self.end = 0  # bytes that were read
        self.start_afresh()

    def start_afresh(self, header: dict[str, Any] | None = None) -> None:
        self.header, self.start, self.lines = header, self.end, Lines(self.last_line)
        self.num_rows = self.num_wrong = 0  # num_wrong: lines that are not read right

    def read(self) -> None:
        """Read the rows that were written since the last call."""
        with open(self.path, "rb") as file:
            file.seek(self.end)
            for row in file:
                if not row.endswith(b"\n"):  # still being written, or cut off
                    return
                if (match := _LINE.match(row)) and row.endswith(b"}\n"):
                    self.lines.add(int(match[2]))
                    self.num_rows += 1
                    self.num_wrong += b'"faults": [{' in row  # quotes in texts are escaped
                elif _HEADER.match(row) and (header := _parsed(row)):
                    if header.get("resumed"):
                        self.header = header
                    else:
                        self.start_afresh(header)
                self.end += len(row)

    def places(self) -> Iterator[tuple[int, int]]:
        """(line, byte offset in the log) of each row that counts."""
        offset = self.start
        with open(self.path, "rb") as file:
            file.seek(offset)
            for row in file:
                if (match := _LINE.match(row)) and row.endswith(b"}\n") and offset < self.end:
                    yield int(match[2]), offset
                offset += len(row)


def _parsed(row: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(row)
    except ValueError:  # damaged
        return None
    return values if isinstance(values, dict) else None


class Logs:
    """The logs in an output folder."""

    def __init__(self, output: Path, last_line: int) -> None:
        self.output, self.last_line = output, last_line
        self.logs: dict[str, Log] = {}

    def read(self) -> list[Log]:
        """Read what was written since the last call, and return all logs, by name."""
        names = os.listdir(self.output) if self.output.is_dir() else []
        found = sorted(name for name in names if _LOG.fullmatch(name))
        self.logs = {name: self.logs.get(name) or Log(self.output / name, self.last_line) for name in found}
        for log in self.logs.values():
            log.read()
        return list(self.logs.values())

    def done(self) -> Lines:
        """The lines that have a row in any of the logs."""
        done = Lines(self.last_line)
        for log in self.logs.values():
            done.update(log.lines)
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
    """The audio files that the first `end` bytes of a log list, by their names in its folder."""
    offset = 0
    with open(path, "rb") as file:
        for row in file:
            offset += len(row)
            if offset > end:
                return
            if match := _FILE.search(row):
                yield match[1].decode()


def write_manifest(path: Path, logs: list[Log], last_line: int) -> None:
    """Write the rows of all logs to one file, in the order of the phrase file, one for each line."""
    places = array("Q", [0]) * (last_line + 1)  # byte offset + 1, and above it the log
    for k, log in enumerate(logs):
        for line, offset in log.places():
            if line <= last_line:
                places[line] = (k << 48) + offset + 1
    files = [open(log.path, "rb") for log in logs]  # noqa: SIM115 # closed below
    try:
        with replacing(path) as temporary, open(temporary, "wb") as manifest:
            for place in filter(None, places):
                file = files[place >> 48]
                file.seek((place & (2**48 - 1)) - 1)
                manifest.write(file.readline())
    finally:
        for file in files:
            file.close()
