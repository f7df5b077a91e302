"""Matrix products that use the same weight many times: the weight is prepared once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")
LONG_SUM = 1024  # inputs; for more of them, the product of one row is summed in another order than that of several
FEW_ROWS = 256  # up to here all numbers of rows are few enough
FLOAT16_ENGINES = "x86", "fbgemm"  # of torch.backends.quantized
_PACKED: WeakKeyDictionary[nn.Module, tuple[object, Any]] = WeakKeyDictionary()


def packed_once(module: nn.Module, setting: object, pack: Callable[[], T]) -> T:
    """The result of `pack` for the weights of `module`, computed again only after they or `setting` have changed.

    A parameter has changed if its address or its version counter has. In-place operations increase that counter, but
    fused optimizers do not: after such a step, call torch.autograd.graph.increment_version. Buffers are not checked.
    """
    key = setting, [(parameter.data_ptr(), parameter._version) for parameter in module.parameters()]
    found = _PACKED.get(module)
    if found is None or found[0] != key:
        with torch.no_grad():
            found = _PACKED[module] = (key, pack())
    return found[1]


def forget_packed(module: nn.Module) -> None:
    """Free what packed_once holds for a module and its submodules."""
    for part in module.modules():
        _PACKED.pop(part, None)


def few_sizes(rows: int) -> int:
    """The next larger of 16 numbers of rows between a power of two and the next: at most 6 % more.

    oneDNN compiles code for each number of rows, which takes milliseconds, and keeps a part of it, up to megabytes, for
    ever: a program that gave it sequences of any length would grow and grow.
    """
    step = 1 << max(rows.bit_length() - 5, 0)
    return -(-rows // step) * step


class PackedLinear:
    """x (rows, in) -> x @ weight.T + bias (rows, out), for a constant weight (out, in).

    On CPUs a float32 or bfloat16 weight is stored in the layout that oneDNN's kernels read, chosen for inputs of `rows`
    rows. For few rows, where reading the weight takes most of the time, this is about twice as fast as BLAS. The result
    is the same up to the order of the sums, which does not depend on the other rows. Elsewhere this is F.linear.
    """

    def __init__(self, weight: Tensor, rows: int, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias
        on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
        has_bf16 = on_cpu and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        is_packed = on_cpu and (weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and has_bf16))
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows) if is_packed else None

    def __call__(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return F.linear(x, self.weight, self.bias)
        rows = wanted = len(x)
        if rows > FEW_ROWS:
            wanted = few_sizes(rows)
        elif rows == 1 and x.shape[1] > LONG_SUM:
            wanted = 2
        if wanted > rows:
            x = F.pad(x, (0, 0, 0, wanted - rows))
        x = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return x[:rows] if wanted > rows else x


class Float16Linear:
    """Like PackedLinear, for few rows and a float32 weight on a CPU that consists of float16 numbers, as it does after
    it was stored in float16. Nothing is lost: the weight is float16 only in memory, half the bytes to read, and all
    products and sums are float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.quantized.linear_dynamic_fp16(x, self.packed))

    @staticmethod
    def supports(weight: Tensor) -> bool:
        """Whether nothing is lost, and this PyTorch has the product."""
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            return False
        half = weight.half()
        is_exact = bool(half.isfinite().all()) and torch.equal(weight, half.float())
        return is_exact and torch.backends.quantized.engine in FLOAT16_ENGINES


class Int8Linear:
    """Like PackedLinear, but only for CPUs, with the weight in int8: a quarter of the bytes of float32 to read.

    The weights have a scale for each output, the inputs a scale for each call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.reduce_range = not torch.cpu._is_vnni_supported()  # older instructions accumulate in 16 bits
        weight = weight.float()
        scale = weight.abs().amax(1).clamp(min=1e-12).double() / 127
        quantized = torch.quantize_per_channel(weight, scale, torch.zeros_like(scale).long(), 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None if bias is None else bias.float())

    def __call__(self, x: Tensor) -> Tensor:
        x = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return x
