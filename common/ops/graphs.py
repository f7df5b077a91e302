"""CUDA graphs: many small kernels launched as one, where launching each would take longer than running it."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

Group = TypeVar("Group", bound=tuple[Any, ...])  # a tuple or NamedTuple of tensors, None, or such groups
LIMIT = 64  # entries kept for each owner and device: graphs, and keys that were seen only once
ALIGNMENT = 512  # bytes, as in PyTorch's CUDA allocator


class _Everyone:
    """The owner of graphs that use only their arguments."""


_EVERYONE = _Everyone()
_LOCK = threading.Lock()


class _Device:
    """The state that all graphs of one device share.

    The graphs run one after the other, so they can share one stream, one memory pool and one arena for arguments.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.pool = torch.cuda.graph_pool_handle()
        self.done = torch.cuda.Event()
        self.arena = torch.empty(0, dtype=torch.uint8, device="cuda")
        # owner -> key -> a graph and the tensors that it computes with, or None if the key was seen only once
        self.captured: WeakKeyDictionary[Any, OrderedDict[Hashable, tuple[Any, list[Tensor | None]] | None]]
        self.captured = WeakKeyDictionary()

    def count(self) -> int:
        """The number of graphs that can be replayed."""
        return sum(graph is not None for known in self.captured.values() for graph in known.values())

    def places(self, arguments: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Tensors like the arguments, in the arena. If the arena has to grow, all graphs become invalid."""
        offsets, total = [], 0
        for x in arguments:
            offsets.append(total)
            total += 0 if x is None else -(-x.nbytes // ALIGNMENT) * ALIGNMENT
        if total > len(self.arena):
            for known in self.captured.values():
                known.clear()
            self.arena = self.arena.new_empty(total)
        return [
            None if x is None else self.arena[offset : offset + x.nbytes].view(x.dtype).view(x.shape)
            for x, offset in zip(arguments, offsets, strict=True)
        ]


_DEVICES: dict[int, _Device] = {}


def num_graphs() -> int:
    """The number of CUDA graphs that this process keeps, on all devices."""
    return sum(device.count() for device in _DEVICES.values())


def graphed(
    function: Callable[..., None], written: tuple[Any, ...], read: tuple[Any, ...], owner: object = None, **options: Any
) -> None:
    """Call function([owner,] written, read, **options), which changes the tensors of `written` in place and no others.

    On GPUs the call becomes a CUDA graph the second time that its shapes and options occur: the arguments are copied to
    fixed places in memory that the device's graphs share, and the results back. `function` must not wait for the device
    or draw random numbers. Tensors that it uses besides its arguments must belong to `owner`; the graphs are freed with
    their owner.
    """
    if owner is not None:
        function = functools.partial(function, owner)
    first = next(x for x in flat((written, read)) if x is not None)
    if not first.is_cuda:
        return function(written, read, **options)
    with _LOCK, torch.cuda.device(first.device):
        _on_device(function, written, read, owner or _EVERYONE, options)


def _on_device(
    function: Callable[..., None],
    written: tuple[Any, ...],
    read: tuple[Any, ...],
    owner: object,
    options: dict[str, Any],
) -> None:
    index = torch.cuda.current_device()
    if index not in _DEVICES:
        with _outside_inference_mode():
            _DEVICES[index] = _Device()
    device, arguments = _DEVICES[index], flat((written, read))
    shapes = tuple(None if x is None else (x.shape, x.dtype) for x in arguments)
    name = function.func if isinstance(function, functools.partial) else function
    key = name, shapes, tuple(options.items()), torch.backends.cuda.matmul.fp32_precision
    known = device.captured.setdefault(owner, OrderedDict())
    if key not in known:  # these shapes may never come again
        known[key] = None
        return function(written, read, **options)
    known.move_to_end(key)
    device.done.wait()  # a graph before this one may have run on another stream
    captured = known[key]
    if captured is None:
        captured = _capture(device, function, written, read, options)
        known[key] = captured
        while len(known) > LIMIT:
            known.popitem(last=False)
    graph, places = captured
    _copy(places, arguments)
    graph.replay()
    results = flat(written)
    _copy(results, places[: len(results)])
    device.done.record()


def _capture(
    device: _Device,
    function: Callable[..., None],
    written: tuple[Any, ...],
    read: tuple[Any, ...],
    options: dict[str, Any],
) -> tuple[Any, list[Tensor | None]]:
    arguments = flat((written, read))
    with _outside_inference_mode():
        places = device.places(arguments)
        own_written, own_read = _like((written, read), iter(places))
        # Run once without a graph: this compiles kernels for the alignment of these tensors and sets up libraries,
        # which must not happen during a capture.
        device.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(device.stream):
            _copy(places, arguments)
            function(own_written, own_read, **options)
        torch.cuda.current_stream().wait_stream(device.stream)
        if not device.count():  # PyTorch frees a pool with its last graph, and refuses its handle from then on
            device.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: loader threads may pin memory during the capture
        with torch.cuda.graph(graph, device.pool, device.stream, capture_error_mode="thread_local"):
            function(own_written, own_read, **options)
    return graph, places


def flat(group: tuple[Any, ...]) -> list[Tensor | None]:
    """The tensors of a group and of the groups in it, in order."""
    return [x for part in group for x in (flat(part) if isinstance(part, tuple) else (part,))]


def _like(group: Group, tensors: Iterator[Tensor | None]) -> Group:
    """A group with the structure of `group`, filled with as many of `tensors` as it needs, in order."""
    parts: list[Any] = [_like(part, tensors) if isinstance(part, tuple) else next(tensors) for part in group]
    return type(group)(*parts) if hasattr(group, "_fields") else type(group)(parts)


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Leave inference mode, because tensors made in it cannot be written to later."""
    with torch.inference_mode(False), torch.no_grad():
        yield


def _copy(targets: Sequence[Tensor | None], sources: Sequence[Tensor | None]) -> None:
    """Copy with one kernel for all tensors of a dtype."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if target is not None and source is not None:
            pair = by_type.setdefault(target.dtype, ([], []))
            pair[0].append(target)
            pair[1].append(source)
    for targets_of_type, sources_of_type in by_type.values():
        torch._foreach_copy_(targets_of_type, sources_of_type)
