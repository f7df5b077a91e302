"""The phrases of inference.py: the lines of a text file, or of JSON lines, read as a stream."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from common.data.filelist import decoded, open_text
from common.errors import UserError, about


class Phrase(NamedTuple):
    number: int  # from 0, among the lines that are not blank
    line: int  # in the file, from 1
    text: str
    id: str | int | None = None  # of the user, in a file of JSON lines
    speaker: str | None = None  # likewise


class PhraseFile:
    """A text file with a phrase on each line, or a .jsonl file: on each line {"text": ...}, and "id" and "speaker" if
    wanted.

    The file is read when this object is made, which checks and counts its lines, and in each iteration. Memory does not
    grow with the number of lines. Raises a UserError that names a line that cannot be used, or if the file changes.

    speakers: each speaker that is asked for, with the first line that does so; None: a line asks for none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.is_json = self.path.suffix == ".jsonl"
        self.file = open_text(self.path, "input")
        if not self.file.seekable():  # a pipe
            copy = tempfile.TemporaryFile()  # noqa: SIM115 # used until the program ends
            shutil.copyfileobj(self.file, copy)
            copy.flush()
            self.file = copy
        self.version = self._version()
        self.num_phrases = self.last_line = 0
        self.speakers: dict[str | None, int] = {}
        for phrase in self:
            self.num_phrases, self.last_line = phrase.number + 1, phrase.line
            self.speakers.setdefault(phrase.speaker, phrase.line)
        if not self.num_phrases:
            raise UserError(f"input {self.path}: the file holds no line of text")
        self.file.seek(0)
        self.digest = hashlib.file_digest(self.file, "sha256").hexdigest()  # type: ignore[arg-type] # it has readinto

    def __iter__(self) -> Iterator[Phrase]:
        self.file.seek(0)
        for number, (line, text) in enumerate(decoded(self.file, self.path, "input")):
            if self._version() != self.version:
                raise UserError(f"input {self.path}: the file has changed since this command started; start it again")
            yield self._parsed(number, line, text) if self.is_json else Phrase(number, line, text)

    def check(self, check_text: Callable[[str], None]) -> None:
        """Raise the UserError of `check_text` for the first text that it refuses, and name its line."""
        for phrase in self:
            with about(f"{self.path}:{phrase.line}"):
                check_text(phrase.text)

    def _version(self) -> tuple[int, int]:
        status = os.fstat(self.file.fileno())
        return status.st_size, status.st_mtime_ns

    def _parsed(self, number: int, line: int, row: str) -> Phrase:
        try:
            values = json.loads(row)
        except (ValueError, RecursionError):
            values = None
        where = f"input {self.path}:{line}"
        text = values.get("text") if isinstance(values, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{where}: not an object with a text, such as {{"text": "Hello."}}: {row[:60]!r}')
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"{where}: its text has half of a surrogate pair (\\ud800 to \\udfff); remove it")
        name = values.get("id")
        if not isinstance(name, str | int | None) or isinstance(name, bool):
            raise UserError(f"{where}: its id is {name!r}; use a string or a whole number")
        speaker = values.get("speaker")
        if not isinstance(speaker, str | None) or speaker == "":
            raise UserError(f"{where}: its speaker is {speaker!r}; use the name of one, or leave it out")
        return Phrase(number, line, text.strip(), name, speaker)
