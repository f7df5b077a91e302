"""Functions applied in chunks, to input that arrives in any parts, equal the whole."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from common.ops.chunks import Chunked


def smooth(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x (1, 2 n) and y (1, n) -> (1, 3 n): each output depends on two positions of x and one of y on both sides."""
    x = F.conv1d(x[None], torch.ones(1, 1, 9), padding=4)[0][:, ::2]
    y = F.conv1d(y[None], torch.ones(1, 1, 3), padding=1)[0]
    return (x + y).repeat_interleave(3, 1)


@pytest.mark.parametrize("sizes", [None, (1, 1), (3, 7), (4, 64), (1000, 1000)])
@pytest.mark.parametrize("length", [1, 2, 5, 100, 257])
def test_chunks_equal_the_whole(sizes: tuple[int, int] | None, length: int) -> None:
    rng, generator = random.Random(length), torch.Generator().manual_seed(length)
    x, y = (torch.rand(1, n * length, generator=generator) for n in (2, 1))
    chunked, found, largest = Chunked(smooth, (2, 1, 3), 2, sizes), list[torch.Tensor](), 0
    while x.shape[1] or y.shape[1]:
        a, b = rng.randint(0, 30), rng.randint(0, 20)
        found += chunked.feed(x[:, :a] if a else None, y[:, :b])
        x, y = x[:, a:], y[:, b:]
        largest = max(largest, *(sum(part.shape[1] for part in buffer) for buffer in chunked.buffers))
    found += chunked.close()
    generator.manual_seed(length)
    x, y = (torch.rand(1, n * length, generator=generator) for n in (2, 1))
    torch.testing.assert_close(torch.cat(found, 1), smooth(x, y))
    if sizes in (None, (1, 1)):
        assert largest <= 2 * (2 * 2 + 1) + 257  # x arrives faster than y


def test_the_chunks_do_not_depend_on_the_parts() -> None:
    x = torch.arange(300.0)[None]
    lengths = []
    for part in (1, 7, 300):
        chunked, found = Chunked(lambda x: x, (1, 1), 5, (4, 64)), list[torch.Tensor]()
        for start in range(0, 300, part):
            found += chunked.feed(x[:, start : start + part])
        lengths.append([chunk.shape[1] for chunk in [*found, *chunked.close()]])
    assert lengths[0] == lengths[1] == lengths[2] == [4, 16, 64, 64, 64, 64, 24]
