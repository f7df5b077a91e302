"""The exception that commands show without a traceback, and helpers for its message."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """A mistake that the user can correct. The message names the path or key, the value and the cure."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the choice closest to `word`, or the list of choices if none is close."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from: {', '.join(choices)}"


def first_line(error: Exception) -> str:
    """The start of a library's message, which may be a page long."""
    return str(error).split("\n", 1)[0][:200]


@contextmanager
def about(what: str) -> Iterator[None]:
    """Start the message of a UserError in the block with `what` it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def require_packages(names: Iterable[str], cure: str) -> None:
    """Raise a UserError that names all packages that are not installed; `cure` is the command that installs them."""
    if absent := [name for name in names if importlib.util.find_spec(name) is None]:
        are = "is" if len(absent) == 1 else "are"
        raise UserError(f"{', '.join(absent)} {are} not installed; run: {cure}")
