"""Word timings as files: SubRip (.srt), WebVTT (.vtt) and JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from synthesis.clauses import mark_at_end
from synthesis.timings import Word

TimingFormat = Literal["json", "srt", "vtt"]
TIMING_FORMATS: tuple[TimingFormat, ...] = get_args(TimingFormat)
LINE, LINES = 42, 2  # characters of a line and lines of a cue, as broadcasters have them


class Cue(NamedTuple):
    """What is shown at a time."""

    start: float  # seconds
    end: float
    lines: list[str]


def cues(text: str, words: Sequence[Word], ends: Iterable[int]) -> Iterator[Cue]:
    """Cut the words of a text into cues of at most LINES lines of LINE characters, unless one word is longer.

    A cue ends with each piece of the text; `ends` are the pieces' ends in characters. A piece that is too long for one
    cue is cut at its last mark that fits, if this is in the second half of what fits, else between two words. Cues show
    the text as it is written, with what has no sound.
    """
    stops = set(ends)
    first, mark = 0, 0  # words: where the cue begins, and where the last mark in it ends
    for k, word in enumerate(words):
        while k > first and len(_lines(_written(text, words, first, k + 1))) > LINES:
            place = mark if mark > first and 2 * len(_written(text, words, first, mark)) > LINE * LINES else k
            yield _cue(text, words, first, place)
            first = place
        if mark_at_end(word.text) != "none":
            mark = k + 1
        if any(stop in stops for stop in range(word.span[1], _next(text, words, k) + 1)):
            yield _cue(text, words, first, k + 1)
            first = k + 1
    if first < len(words):
        yield _cue(text, words, first, len(words))


def _next(text: str, words: Sequence[Word], k: int) -> int:
    """Where the word behind word `k` begins."""
    return words[k + 1].span[0] if k + 1 < len(words) else len(text)


def _written(text: str, words: Sequence[Word], first: int, last: int) -> str:
    """What is written from word `first` to before word `last`, with what has no sound."""
    start = words[first].span[0] if first else 0
    return " ".join(text[start : _next(text, words, last - 1)].split())


def _lines(written: str, width: int = LINE) -> list[str]:
    return textwrap.wrap(written, width, break_on_hyphens=False)


def _balanced(written: str) -> list[str]:
    """As few lines as possible, of similar lengths."""
    lines = _lines(written)
    narrower = (_lines(written, width) for width in range(-(-len(written) // len(lines)), LINE))
    return next((other for other in narrower if len(other) == len(lines)), lines)


def _cue(text: str, words: Sequence[Word], first: int, last: int) -> Cue:
    return Cue(words[first].start, words[last - 1].end, _balanced(_written(text, words, first, last)))


def srt(text: str, words: Sequence[Word], ends: Iterable[int]) -> str:
    """The content of a SubRip file."""
    blocks = (
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(cues(text, words, ends), 1)
    )
    return "\n\n".join(blocks) + "\n"


def vtt(text: str, words: Sequence[Word], ends: Iterable[int]) -> str:
    """The content of a WebVTT file (W3C, 2019)."""
    escapes = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
    blocks = (
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n" + "\n".join(cue.lines).translate(escapes)
        for cue in cues(text, words, ends)
    )
    return "\n\n".join(("WEBVTT", *blocks)) + "\n"


def as_json(text: str, words: Sequence[Word], ends: Iterable[int]) -> str:
    """The content of a JSON file: the text, and each word with its seconds and its characters in the text."""
    rows = ",\n".join(json.dumps(word_row(word), ensure_ascii=False) for word in words)
    return f'{{"text": {json.dumps(text, ensure_ascii=False)}, "words": [\n{rows}\n]}}\n'


def word_row(word: Word) -> dict[str, object]:
    """A word as JSON has it."""
    return {"word": word.text, "start": round(word.start, 3), "end": round(word.end, 3), "span": list(word.span)}


WRITERS: dict[TimingFormat, Callable[[str, Sequence[Word], Iterable[int]], str]] = {
    "json": as_json,
    "srt": srt,
    "vtt": vtt,
}


def _clock(seconds: float, point: str) -> str:
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{point}{milliseconds % 1000:03d}"
