"""The one exception that the entry scripts show without a traceback."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class UserError(ValueError):
    """Something the user can mend. The message names the path or key, the value and the cure."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the choice nearest to `word`, or the list of choices when none is near."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from: {', '.join(choices)}"


def make_directory(path: Path, key: str) -> None:
    """Create a directory that will be written to, and see that it can be; `key` is what the user set it with."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{path}: cannot be written to ({error.strerror or error}); choose another {key}") from error


def check_new_file(path: Path, name: str) -> None:
    """A UserError unless a file can be made at `path`, which nothing is at; `name` is what the user knows it as."""
    if path.exists():
        raise UserError(f"{path} exists already; choose another name for {name} or remove it")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such directory; create it first")


def first_line(error: Exception) -> str:
    """The beginning of a library's message, which may be a page long."""
    return str(error).split("\n", 1)[0][:200]
