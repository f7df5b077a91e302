"""CUDA graphs: many small kernels launched as one, where launching each would take longer than running it."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

LIMIT = 64  # graphs that are kept for each owner
ALIGNMENT = 512  # bytes, as of CUDA's own allocations


class _Everyone:
    """The owner of graphs that depend on nothing but their arguments."""


_EVERYONE = _Everyone()
_LOCK = threading.Lock()


class _Device:
    """What all graphs of one device share. They run one after the other, so one stream, one pool of memory and one
    arena for their arguments do for all of them."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.done = torch.cuda.Event()
        self.arena = torch.empty(0, dtype=torch.uint8, device="cuda")
        # owner -> key -> a graph with its arguments, or None when the key has been seen once
        self.captured: WeakKeyDictionary[Any, OrderedDict[Hashable, tuple[Any, list[Tensor | None]] | None]]
        self.captured = WeakKeyDictionary()

    def places(self, arguments: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Tensors like the arguments in the arena. If that has to grow, no graph is any good."""
        offsets, total = [], 0
        for x in arguments:
            offsets.append(total)
            total += 0 if x is None else -(-x.nbytes // ALIGNMENT) * ALIGNMENT
        if total > len(self.arena):
            for known in self.captured.values():
                known.clear()
            self.arena = torch.empty(total, dtype=torch.uint8, device="cuda")
        return [
            None if x is None else self.arena[offset : offset + x.nbytes].view(x.dtype).view(x.shape)
            for x, offset in zip(arguments, offsets, strict=True)
        ]


_DEVICES: dict[int, _Device] = {}


def graphed(
    function: Callable[..., None], written: Sequence[Tensor | None], read: Sequence[Tensor | None],
    owner: object = None, **constants: Any,
) -> None:  # fmt: skip
    """function([owner,] *written, *read, **constants), which changes `written` in place and nothing else.

    On GPUs it runs as a CUDA graph from the second time on that the shapes and constants are these: the arguments are
    copied to where the graph has them, and the results back. It must not wait for the device nor draw random numbers.
    Tensors that it uses beside its arguments belong to `owner`, with which its graphs go.
    """
    arguments = (*written, *read)
    if owner is not None:
        function = functools.partial(function, owner)
    first = next(x for x in arguments if x is not None)
    if not first.is_cuda:
        return function(*arguments, **constants)
    with _LOCK, torch.cuda.device(first.device):
        _on_device(function, arguments, len(written), owner or _EVERYONE, constants)


def _on_device(
    function: Callable[..., None], arguments: Sequence[Tensor | None], num_written: int, owner: object,
    constants: dict[str, Any],
) -> None:  # fmt: skip
    index = torch.cuda.current_device()
    if index not in _DEVICES:
        with _as_usual():
            _DEVICES[index] = _Device()
    device = _DEVICES[index]
    shapes = tuple(None if x is None else (x.shape, x.dtype) for x in arguments)
    name = function.func if isinstance(function, functools.partial) else function
    key = name, shapes, tuple(constants.items()), torch.backends.cuda.matmul.fp32_precision
    known = device.captured.setdefault(owner, OrderedDict())
    if key not in known:  # perhaps these shapes come only once
        known[key] = None
        return function(*arguments, **constants)
    known.move_to_end(key)
    device.done.wait()  # for whoever ran a graph before, on another stream
    captured = known[key]
    if captured is None:
        captured = _capture(device, function, arguments, constants)
        known[key] = captured
        while len(known) > LIMIT:
            known.popitem(last=False)
    graph, places = captured
    _copy(places, arguments)
    graph.replay()
    _copy(arguments[:num_written], places[:num_written])
    device.done.record()


def _capture(
    device: _Device, function: Callable[..., None], arguments: Sequence[Tensor | None], constants: dict[str, Any]
) -> tuple[Any, list[Tensor | None]]:
    with _as_usual():
        places = device.places(arguments)
        # Once without a graph: kernels are compiled for the alignment of these tensors, and libraries set up, which a
        # capture must not.
        device.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(device.stream):
            _copy(places, arguments)
            function(*places, **constants)
        torch.cuda.current_stream().wait_stream(device.stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: loader threads may go on pinning memory
        with torch.cuda.graph(graph, device.pool, device.stream, capture_error_mode="thread_local"):
            function(*places, **constants)
    return graph, places


@contextmanager
def _as_usual() -> Iterator[None]:
    """Tensors made in inference mode could not be written to outside of it."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _copy(to: Sequence[Tensor | None], of: Sequence[Tensor | None]) -> None:
    """One kernel for all tensors of a type."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for x, y in zip(to, of, strict=True):
        if x is not None and y is not None:
            pair = by_type.setdefault(x.dtype, ([], []))
            pair[0].append(x)
            pair[1].append(y)
    for places, values in by_type.values():
        torch._foreach_copy_(places, values)
