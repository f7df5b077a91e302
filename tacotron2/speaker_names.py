"""The names of a model's speakers. A speaker's id is the place of its name. Without PyTorch, for exports."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import UserError

LISTED = 20  # names in a message


def check_names(names: Sequence[str]) -> None:
    """Raise a UserError unless each name is different, and one that a user can write."""
    for name in names:
        if not name or name != name.strip() or not name.isprintable():
            raise UserError(f"model.speakers: {name!r} is no name; use one without spaces around it")
    if len(set(names)) < len(names):
        raise UserError(f"model.speakers={list(names)}: each name may occur once")


def listed(names: Sequence[str]) -> str:
    """The names for a message, or the first of many."""
    more = f", ... ({len(names)} in all)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def speaker_id(name: str | None, names: Sequence[str]) -> int | None:
    """The id of the speaker `name` in a model with the speakers `names`; None if it has none.

    A model with one speaker needs no name. Raises a UserError that lists the names if this is none of them.
    """
    if name is None and len(names) < 2:
        return 0 if names else None
    if name is None:
        raise UserError(wrong_speaker(names))
    if not names:
        raise UserError(f"speaker={name}: this voice has one speaker; leave speaker out")
    if name not in names:
        raise UserError(f"speaker={name}: no such speaker; there are: {listed(names)}")
    return names.index(name)


def wrong_speaker(names: Sequence[str]) -> str:
    """What to say if a speaker is missing, or given to a model without speakers."""
    if names:
        return f"this model has {len(names)} speakers; choose one with speaker=NAME: {listed(names)}"
    return "this model has one speaker; leave speaker out"
