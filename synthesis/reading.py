"""Did the attention read a piece as it is written, and what to do if not: try again, then cut the piece smaller.

A piece can go wrong in five ways. Words and frames are those of `tacotron2.measures.reading`.
    skip        words within the text were not read
    early stop  the decoder stopped by itself, but the last words were not read
    repeat      the attention went back to an earlier word
    stall       the attention stayed at one symbol for more than STALL_SECONDS
    runaway     the decoder went on for more than TAIL_SECONDS after the last word, or did not stop by itself
Good utterances of the bundled voice stay below 0.5 s in both.

Shapes: T mel frames, L symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from torch import Tensor

from synthesis.reader import Read
from tacotron2.measures import reading, word_of_frames, words_read

STALL_SECONDS = 1.0
TAIL_SECONDS = 1.0
PATIENCE_SECONDS = 2.0  # without progress of the attention; then the decoder is stopped

Kind = Literal["skip", "early stop", "repeat", "stall", "runaway"]


class Fault(NamedTuple):
    """What went wrong in a piece."""

    kind: Kind
    words: str  # the words that were not read, or where it happened
    cost: int  # to choose between attempts: the number of words lost, or 1


def described(wrong: Sequence[Fault], most: int = 5) -> str:
    """The faults in words, for a message; of many, the first."""
    found = [f"{fault.kind} ({fault.words})" if fault.words else fault.kind for fault in wrong]
    return ", ".join([*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else [])])


@dataclass(frozen=True)
class Decoded:
    """A piece as Tacotron 2 gives it."""

    mel: Tensor  # (n_mels, T) on the model's device
    alignment: Tensor  # (T, L) on the CPU
    truncated: bool  # the decoder did not stop by itself
    seconds: float  # of computing, with those of attempts that were not used
    faults: list[Fault] = field(default_factory=list)

    @property
    def cost(self) -> int:
        return sum(fault.cost for fault in self.faults)


def faults(
    alignment: Tensor, words: list[tuple[int, int]], names: Sequence[str], truncated: bool, frame_seconds: float
) -> list[Fault]:
    """The faults of an utterance: alignment (T, L), (first, end) symbols of each word and their `names`."""
    if not words or not len(alignment):
        return [Fault("runaway", "", 1)] if truncated else []
    read, of_frames = words_read(alignment, words), word_of_frames(alignment, words)
    found = []
    for is_read, group in itertools.groupby(range(len(words)), lambda k: read[k]):
        if not is_read:
            lost = list(group)
            at_end = lost[-1] == len(words) - 1 and not truncated
            found.append(Fault("early stop" if at_end else "skip", " ".join(names[k] for k in lost), len(lost)))
    if repeats := reading(alignment, words).repeats:
        found.append(Fault("repeat", "", repeats))
    peaks = alignment.argmax(1).tolist()
    last = max((t for t, word in enumerate(of_frames) if word == len(words) - 1), default=len(peaks))
    runs = [(symbol, len(list(run))) for symbol, run in itertools.groupby(peaks[: last + 1])]
    symbol, longest = max(runs, key=lambda run: run[1])
    if longest * frame_seconds > STALL_SECONDS:
        found.append(Fault("stall", _near(symbol, words, names), 1))
    if truncated or (len(peaks) - 1 - last) * frame_seconds > TAIL_SECONDS:
        found.append(Fault("runaway", names[-1], 1))
    return found


def _near(symbol: int, words: list[tuple[int, int]], names: Sequence[str]) -> str:
    """The last word that begins before `symbol`."""
    return names[max(sum(first <= symbol for first, _ in words) - 1, 0)]


class Request(NamedTuple):
    """A piece to decode. Each attempt has its own randomness."""

    read: Read
    attempt: int


Trials = Generator[Request, Decoded, list[tuple[Read, Decoded]]]  # yields what to decode, and is sent the result


def trials(read: Read, cut: Callable[[Read], list[Read]], attempts: int) -> Trials:
    """Decode a piece until it is read right: at most `attempts` times as it is, then in smaller pieces, cut(read).

    Returns its pieces. If none is without faults, it is the best that was found.
    """
    best = yield Request(read, 0)
    for attempt in range(1, attempts):
        if not best.faults:
            break
        again = yield Request(read, attempt)
        better = again if again.cost < best.cost else best
        best = replace(better, seconds=best.seconds + again.seconds)
    if not best.faults or attempts == 1 or len(parts := cut(read)) == 1:
        return [(read, best)]
    smaller: list[tuple[Read, Decoded]] = []
    for part in parts:
        smaller += yield from trials(part, cut, attempts)
    if sum(part.cost for _, part in smaller) < best.cost:
        first, *rest = smaller
        return [(first[0], replace(first[1], seconds=first[1].seconds + best.seconds)), *rest]
    return [(read, replace(best, seconds=best.seconds + sum(part.seconds for _, part in smaller)))]


def read_right(
    reads: Sequence[Read],
    decode: Callable[[Sequence[Request]], list[Decoded]],
    cut: Callable[[Read], list[Read]],
    attempts: int,
) -> list[list[tuple[Read, Decoded]]]:
    """The pieces of each piece, see `trials`, decoded in batches."""
    running = [trials(read, cut, attempts) for read in reads]
    asked = {k: next(trial) for k, trial in enumerate(running)}
    found: dict[int, list[tuple[Read, Decoded]]] = {}
    while asked:
        for k, decoded in zip(list(asked), decode(list(asked.values())), strict=True):
            try:
                asked[k] = running[k].send(decoded)
            except StopIteration as end:
                found[k] = end.value
                del asked[k]
    return [found[k] for k in range(len(reads))]
