"""Cuts a long text into pieces that the model can read."""

from __future__ import annotations

from collections.abc import Sequence

MAX_SYMBOLS = 300  # attention loses its place in texts longer than those of training; LJSpeech's longest have 190
CUT_OFF = (  # a warning about a file, with the option that limits the steps
    "{} ends at the step limit, because the decoder did not stop by itself. Listen to it: if it is cut off, raise {}; "
    "if it babbles, as a voice in training does, train longer"
)
BREAKS = (".!?", ";:", ",", " ")  # where a text is cut, the best places first


def split_long(ids: list[int], symbols: Sequence[str], limit: int = MAX_SYMBOLS) -> list[list[int]]:
    """Cut ids into pieces of at most `limit`, each ending with the last sentence that fits, or else clause or word."""
    pieces = []
    while len(ids) > limit:
        head = [symbols[i] for i in ids[:limit]]
        # Only the second half is searched: a sentence of three words should not become its own piece.
        places = ([k + 1 for k in range(limit // 2, limit) if head[k] in marks] for marks in BREAKS)
        cut = next((found[-1] for found in places if found), limit)
        pieces.append(ids[:cut])
        ids = ids[cut:]
    return [*pieces, ids]
