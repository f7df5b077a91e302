"""CUDA graphs: many small kernels launched as one, where launching each would take longer than running it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LIMIT = 16  # graphs that are kept, each with its memory


class _Captured(NamedTuple):
    graph: Any  # torch.cuda.CUDAGraph
    tensors: list[Tensor]  # what it reads and writes


_CAPTURED: OrderedDict[object, _Captured] = OrderedDict()


def graphed(
    function: Callable[..., None], written: Sequence[Tensor | None], read: Sequence[Tensor | None], **constants: Any
) -> None:
    """function(*written, *read, **constants), which changes `written` in place and nothing else.

    On GPUs it runs as a CUDA graph, captured once for each set of shapes and constants and kept with tensors of its
    own: the arguments are copied there and the results back. It must not wait for the device nor draw random numbers.
    """
    arguments = (*written, *read)
    tensors = [tensor for tensor in arguments if tensor is not None]
    if not tensors[0].is_cuda or torch.cuda.is_current_stream_capturing():
        return function(*arguments, **constants)
    shapes = tuple(None if tensor is None else (tensor.shape, tensor.dtype) for tensor in arguments)
    tf32 = torch.backends.cuda.matmul.fp32_precision
    key = function, tensors[0].device, shapes, tuple(constants.items()), tf32
    captured = _CAPTURED.get(key)
    if captured is None:
        captured = _CAPTURED[key] = _capture(function, arguments, constants)
        while len(_CAPTURED) > LIMIT:
            _CAPTURED.popitem(last=False)
    _CAPTURED.move_to_end(key)
    torch._foreach_copy_(captured.tensors, tensors)
    captured.graph.replay()
    results = [tensor for tensor in written if tensor is not None]
    torch._foreach_copy_(results, captured.tensors[: len(results)])


def _capture(function: Callable[..., None], arguments: Sequence[Tensor | None], constants: Any) -> _Captured:
    own = [None if x is None else x.clone(memory_format=torch.contiguous_format) for x in arguments]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function(*own, **constants)  # compiles kernels and sets up libraries, which a capture must not
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # thread_local: loader threads may go on pinning memory
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        function(*own, **constants)
    return _Captured(graph, [tensor for tensor in own if tensor is not None])
