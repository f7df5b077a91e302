"""Helpers for the wording of messages."""

from __future__ import annotations


def counted(number: float, noun: str, plural: str | None = None) -> str:
    """ "1 clip", "2,000 clips", "0.5 minutes"; `plural` is by default the noun with an s."""
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun if number == 1 else plural or noun + 's'}"
