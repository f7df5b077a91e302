"""Applies a function to sequences that arrive piece by piece, in bounded memory.

A function whose output depends only on nearby input can be applied in chunks: each with some positions before and after
it, whose output is dropped. If these reach as far as the function does, the chunks together equal the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, cat

GROWTH = 4  # of the first chunks


class Chunked:
    """Applies `function` in chunks, with `reach` positions of context on both sides.

    function: takes the sequences and returns a tensor (..., positions * rate).
    rates: elements per position in the last dimension of each input, then of the output.
    sizes: positions of the first chunk, and of the last ones; those between grow. A small first chunk gives its output
    early. The chunks do not depend on the parts that the input arrives in, unless `greedy`: then a chunk is at least
    that long, but takes all that is there, up to the last size.
    None: a chunk is all that is there, for a function that costs little.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        rates: Sequence[int],
        reach: int,
        sizes: tuple[int, int] | None = None,
        greedy: bool = False,
    ) -> None:
        self.function, self.reach, self.sizes, self.greedy = function, reach, sizes, greedy
        *self.rates, self.out_rate = rates
        self.next_size = sizes[0] if sizes else 1
        self.context = 0  # positions at the start of the buffers that were already put out
        self.buffers: list[list[Tensor]] = [[] for _ in self.rates]

    def feed(self, *parts: Tensor | None) -> Iterator[Tensor]:
        """Yield the outputs that more input makes possible: a part (..., positions * rate) of each sequence, or None.

        The sequences may arrive at different speeds.
        """
        self._append(parts)
        while (ready := self._positions() - self.context - self.reach) >= self.next_size:
            size = self._size(ready)
            yield self._apply(size, self.context + size + self.reach)

    def close(self, *parts: Tensor | None) -> Iterator[Tensor]:
        """Yield the outputs that are left after the last parts, if any. All sequences have the same number of
        positions."""
        self._append(parts or [None] * len(self.buffers))
        while (left := self._positions() - self.context) > 0:
            size = min(self._size(left), left)
            yield self._apply(size, min(self._positions(), self.context + size + self.reach))

    def _append(self, parts: Sequence[Tensor | None]) -> None:
        for buffer, part in zip(self.buffers, parts, strict=True):
            if part is not None:
                buffer.append(part)

    def _size(self, ready: int) -> int:
        if self.sizes is None:
            return ready
        return max(self.next_size, min(ready, self.sizes[1])) if self.greedy else self.next_size

    def _positions(self) -> int:
        """The number of positions that all buffers hold."""
        lengths = (sum(part.shape[-1] for part in buffer) for buffer in self.buffers)
        return min(length // rate for length, rate in zip(lengths, self.rates, strict=True))

    def _apply(self, size: int, end: int) -> Tensor:
        """The output of the next `size` positions, from those up to `end`."""
        inputs = [cat(buffer, -1) if len(buffer) > 1 else buffer[0] for buffer in self.buffers]
        parts = [x[..., : end * rate] for x, rate in zip(inputs, self.rates, strict=True)]
        output = self.function(*parts)[..., self.context * self.out_rate : (self.context + size) * self.out_rate]
        done = self.context + size
        kept = min(self.reach, done)
        self.buffers = [[x[..., (done - kept) * rate :]] for x, rate in zip(inputs, self.rates, strict=True)]
        self.context = kept
        if self.sizes:
            self.next_size = min(GROWTH * self.next_size, self.sizes[1])
        return output
