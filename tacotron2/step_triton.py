"""One step of the decoder in Triton kernels for GPUs: three kernels forward, three backward.

It has the functions of tacotron2/step_torch.py, with the same results (tests/test_triton.py). Triton comes with PyTorch
for GPUs; TRITON_INTERPRET=1 runs the kernels on a CPU.

Shapes: B batch, L characters, H cells, E memory, A attention, K taps of the location kernel. Tensors whose row stride
a kernel takes (`..._row`) may have gaps between their rows; all others are contiguous.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from tacotron2.step_torch import Attended, AttendedGradients, AttentionSums

# More pipeline stages would need more shared memory than most GPUs have. There are few programs, so each gets more
# warps.
FEATURES_BACKWARD = {"num_stages": 1, "num_warps": 8}

# ---- LSTM ----


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _lstm_cell(
    gates, recurrent, before, after, hidden, kept, scale, size,
    gates_row, recurrent_row, before_row, after_row, hidden_row, kept_row,
    has_recurrent: tl.constexpr, has_kept: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    cell = tl.program_id(1) * block + tl.arange(0, block)
    mask = cell < size
    at = gates + b * gates_row + cell
    i = tl.load(at, mask).to(tl.float32)
    f = tl.load(at + size, mask).to(tl.float32)
    o = tl.load(at + 2 * size, mask).to(tl.float32)
    g = tl.load(at + 3 * size, mask).to(tl.float32)
    if has_recurrent:
        more = recurrent + b * recurrent_row + cell
        i += tl.load(more, mask).to(tl.float32)
        f += tl.load(more + size, mask).to(tl.float32)
        o += tl.load(more + 2 * size, mask).to(tl.float32)
        g += tl.load(more + 3 * size, mask).to(tl.float32)
    i, f, o, g = tl.sigmoid(i), tl.sigmoid(f), tl.sigmoid(o), _tanh(g)
    tl.store(at, i, mask)
    tl.store(at + size, f, mask)
    tl.store(at + 2 * size, o, mask)
    tl.store(at + 3 * size, g, mask)
    c = f * tl.load(before + b * before_row + cell, mask).to(tl.float32) + i * g
    tl.store(after + b * after_row + cell, c, mask)
    h = o * _tanh(c)
    if has_kept:
        h = tl.where(tl.load(kept + b * kept_row + cell, mask, other=0) != 0, h * scale, 0.0)
    tl.store(hidden + b * hidden_row + cell, h, mask)


def lstm_cell(
    gates: Tensor, recurrent: Tensor | None, before: Tensor, after: Tensor, hidden: Tensor, kept: Tensor | None,
    scale: float,
) -> None:  # fmt: skip
    """See step_torch.lstm_cell."""
    batch, size = before.shape
    more, mask = gates if recurrent is None else recurrent, before if kept is None else kept
    _lstm_cell[(batch, triton.cdiv(size, 256))](
        gates, more, before, after, hidden, mask, scale, size,
        gates.stride(0), more.stride(0), before.stride(0), after.stride(0), hidden.stride(0), mask.stride(0),
        has_recurrent=recurrent is not None, has_kept=kept is not None, block=256,
    )  # fmt: skip


@triton.jit
def _lstm_cell_backward(
    gates, before, after, d_hidden, d_recurrent, d_query_hidden, d_cell, kept, scale, size,
    gates_row, before_row, after_row, d_hidden_row, d_recurrent_row, d_query_hidden_row, d_cell_row, kept_row,
    has_query: tl.constexpr, has_kept: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    cell = tl.program_id(1) * block + tl.arange(0, block)
    mask = cell < size
    d_h = tl.load(d_hidden + b * d_hidden_row + cell, mask).to(tl.float32)
    d_h += tl.load(d_recurrent + b * d_recurrent_row + cell, mask).to(tl.float32)
    if has_query:
        d_h += tl.load(d_query_hidden + b * d_query_hidden_row + cell, mask).to(tl.float32)
    if has_kept:
        d_h = tl.where(tl.load(kept + b * kept_row + cell, mask, other=0) != 0, d_h * scale, 0.0)
    at = gates + b * gates_row + cell
    i = tl.load(at, mask).to(tl.float32)
    f = tl.load(at + size, mask).to(tl.float32)
    o = tl.load(at + 2 * size, mask).to(tl.float32)
    g = tl.load(at + 3 * size, mask).to(tl.float32)
    c = _tanh(tl.load(after + b * after_row + cell, mask).to(tl.float32))
    d_c = tl.load(d_cell + b * d_cell_row + cell, mask).to(tl.float32) + d_h * o * (1 - c * c)
    tl.store(at, d_c * g * i * (1 - i), mask)
    tl.store(at + size, d_c * tl.load(before + b * before_row + cell, mask).to(tl.float32) * f * (1 - f), mask)
    tl.store(at + 2 * size, d_h * c * o * (1 - o), mask)
    tl.store(at + 3 * size, d_c * i * (1 - g * g), mask)
    tl.store(d_cell + b * d_cell_row + cell, d_c * f, mask)


def lstm_cell_backward(
    gates: Tensor, before: Tensor, after: Tensor, d_hidden: Tensor, d_recurrent: Tensor, d_query_hidden: Tensor | None,
    d_cell: Tensor, kept: Tensor | None, scale: float,
) -> None:  # fmt: skip
    """See step_torch.lstm_cell_backward."""
    batch, size = before.shape
    more, mask = d_hidden if d_query_hidden is None else d_query_hidden, before if kept is None else kept
    _lstm_cell_backward[(batch, triton.cdiv(size, 256))](
        gates, before, after, d_hidden, d_recurrent, more, d_cell, mask, scale, size,
        gates.stride(0), before.stride(0), after.stride(0), d_hidden.stride(0), d_recurrent.stride(0), more.stride(0),
        d_cell.stride(0), mask.stride(0), has_query=d_query_hidden is not None, has_kept=kept is not None, block=256,
    )  # fmt: skip


# ---- attention ----


@triton.jit
def _columns(last, total, b, rows, length, taps: tl.constexpr, width: tl.constexpr):
    """Patches (rows, width) of `last` and `total`, alternating; 0 beyond the ends."""
    column = tl.arange(0, width)
    place = rows[:, None] + (column // 2)[None, :] - taps // 2
    mask = (place >= 0) & (place < length) & (column < 2 * taps)[None, :]
    is_last = (column % 2 == 0)[None, :]
    at = b * length + place
    return tl.load(last + at, mask & is_last, other=0.0) + tl.load(total + at, mask & (is_last == 0), other=0.0)


@triton.jit
def _sigmoid_of_features(
    query, kernel, keys, last, total, b, rows, length, query_row, dim,
    taps: tl.constexpr, width: tl.constexpr, dim_block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """sigmoid(2 (query + keys + location features)) (rows, dim_block)"""
    a = tl.arange(0, dim_block)
    column = tl.arange(0, width)
    taps_mask = (column < 2 * taps)[:, None] & (a < dim)[None, :]
    filters = tl.load(kernel + column[:, None] * dim + a[None, :], taps_mask, other=0.0).to(tl.float32)
    patches = _columns(last, total, b, rows, length, taps, width)
    mask = (rows < length)[:, None] & (a < dim)[None, :]
    x = tl.load(keys + (b * length + rows)[:, None] * dim + a[None, :], mask, other=0.0).to(tl.float32)
    x += tl.dot(patches, filters, input_precision=precision)
    x += 2 * tl.load(query + b * query_row + a, a < dim, other=0.0).to(tl.float32)[None, :]
    return tl.sigmoid(x)


@triton.jit
def _energies(
    out, query, kernel, keys, v, last, total, padding, length, dim, query_row,
    taps: tl.constexpr, width: tl.constexpr, dim_block: tl.constexpr, rows_block: tl.constexpr,
    precision: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    rows = tl.program_id(1) * rows_block + tl.arange(0, rows_block)
    a = tl.arange(0, dim_block)
    sigmoid = _sigmoid_of_features(
        query, kernel, keys, last, total, b, rows, length, query_row, dim, taps, width, dim_block, precision
    )
    weight = tl.load(v + a, a < dim, other=0.0).to(tl.float32)
    energy = tl.sum(sigmoid * weight[None, :], 1)
    beyond = tl.load(padding + b * length + rows, rows < length, other=1) != 0
    tl.store(out + b * length + rows, tl.where(beyond, float("-inf"), energy), rows < length)


@triton.jit
def _softmax_and_context(
    energies, total, memory, weights, new_total, context, length, memory_dim, context_row,
    length_block: tl.constexpr, rows_block: tl.constexpr, memory_block: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    every = tl.arange(0, length_block)
    energy = tl.load(energies + b * length + every, every < length, other=float("-inf"))
    highest = tl.max(energy, 0)
    exponent = tl.exp(energy - highest)
    total_exponent = tl.sum(exponent, 0)
    if tl.program_id(1) == 0:
        all_weights = exponent / total_exponent
        tl.store(weights + b * length + every, all_weights, every < length)
        before = tl.load(total + b * length + every, every < length, other=0.0)
        tl.store(new_total + b * length + every, before + all_weights, every < length)
    e = tl.program_id(1) * memory_block + tl.arange(0, memory_block)
    result = tl.zeros((memory_block,), tl.float32)
    for first in range(0, length, rows_block):
        rows = first + tl.arange(0, rows_block)
        some = tl.load(energies + b * length + rows, rows < length, other=float("-inf"))
        weight = tl.exp(some - highest) / total_exponent
        at = memory + (b * length + rows)[:, None] * memory_dim + e[None, :]
        values = tl.load(at, (rows < length)[:, None] & (e < memory_dim)[None, :], other=0.0).to(tl.float32)
        result += tl.sum(weight[:, None] * values, 0)
    tl.store(context + b * context_row + e, result, e < memory_dim)


@triton.jit
def _weights_backward(
    d_weight, d_total, d_context, d_state, d_recurrent, d_outside, d_patches, memory, length, memory_dim,
    d_context_row, d_state_row, d_recurrent_row, taps: tl.constexpr, rows_block: tl.constexpr,
    memory_block: tl.constexpr,
):  # fmt: skip
    """The gradient of a step's weights: through the context, from outside the loop, and through the location features
    of later steps."""
    b = tl.program_id(0)
    rows = tl.program_id(1) * rows_block + tl.arange(0, rows_block)
    mask = rows < length
    gradient = tl.load(d_outside + b * length + rows, mask, other=0.0).to(tl.float32)
    for first in range(0, memory_dim, memory_block):
        e = first + tl.arange(0, memory_block)
        d_e = tl.load(d_state + b * d_state_row + e, e < memory_dim, other=0.0).to(tl.float32)
        d_e += tl.load(d_recurrent + b * d_recurrent_row + e, e < memory_dim, other=0.0).to(tl.float32)
        if tl.program_id(1) == 0:
            tl.store(d_context + b * d_context_row + e, d_e, e < memory_dim)
        at = memory + (b * length + rows)[:, None] * memory_dim + e[None, :]
        values = tl.load(at, mask[:, None] & (e < memory_dim)[None, :], other=0.0).to(tl.float32)
        gradient += tl.sum(values * d_e[None, :], 1)
    summed = tl.load(d_total + b * length + rows, mask, other=0.0)
    for tap in range(taps):
        place = rows - tap + taps // 2
        inside = (place >= 0) & (place < length)
        at = d_patches + ((b * length + place) * taps + tap) * 2
        gradient += tl.load(at, inside, other=0.0)
        summed += tl.load(at + 1, inside, other=0.0)
    tl.store(d_total + b * length + rows, summed, mask)
    tl.store(d_weight + b * length + rows, gradient + summed, mask)


@triton.jit
def _features_backward(
    d_query, d_features, d_patches, d_v, d_weight, weights, query, kernel, keys, v, last, total, length, dim,
    query_row, d_query_row, taps: tl.constexpr, width: tl.constexpr, dim_block: tl.constexpr,
    rows_block: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0)
    a = tl.arange(0, dim_block)
    column = tl.arange(0, width)
    dots = tl.zeros((rows_block,), tl.float32)  # sum of weights * d_weight, for the softmax's gradient
    for first in range(0, length, rows_block):
        rows = first + tl.arange(0, rows_block)
        at = b * length + rows
        dots += tl.load(weights + at, rows < length, other=0.0) * tl.load(d_weight + at, rows < length, other=0.0)
    dot = tl.sum(dots, 0)
    taps_mask = (column < 2 * taps)[:, None] & (a < dim)[None, :]
    filters = tl.load(kernel + column[:, None] * dim + a[None, :], taps_mask, other=0.0).to(tl.float32)
    weight_v = tl.load(v + a, a < dim, other=0.0).to(tl.float32)
    sum_query = tl.zeros((dim_block,), tl.float32)
    sum_v = tl.load(d_v + b * dim + a, a < dim, other=0.0)
    for first in range(0, length, rows_block):
        rows = first + tl.arange(0, rows_block)
        at = b * length + rows
        weight = tl.load(weights + at, rows < length, other=0.0)
        d_energy = weight * (tl.load(d_weight + at, rows < length, other=0.0) - dot)
        sigmoid = _sigmoid_of_features(
            query, kernel, keys, last, total, b, rows, length, query_row, dim, taps, width, dim_block, precision
        )
        sum_v += tl.sum(2 * d_energy[:, None] * sigmoid, 0)
        d_x = d_energy[:, None] * (2 * weight_v)[None, :] * sigmoid * (1 - sigmoid)  # weight_v is 2 v
        sum_query += tl.sum(d_x, 0)
        mask = (rows < length)[:, None]
        tl.store(d_features + at[:, None] * dim + a[None, :], d_x, mask & (a < dim)[None, :])
        patch = tl.dot(d_x, tl.trans(filters), input_precision=precision) / 2
        tl.store(d_patches + at[:, None] * (2 * taps) + column[None, :], patch, mask & (column < 2 * taps)[None, :])
    tl.store(d_query + b * d_query_row + a, sum_query, a < dim)
    tl.store(d_v + b * dim + a, sum_v, a < dim)


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


class AttentionStep:
    """See step_torch.AttentionStep."""

    def __init__(self, kernel: Tensor, keys: Tensor, v: Tensor, memory: Tensor, padding: Tensor | None) -> None:
        self.batch, self.length, self.dim = keys.shape
        self.taps = kernel.shape[2]
        self.kernel = (2 * kernel.permute(2, 1, 0)).reshape(2 * self.taps, self.dim).contiguous()  # (2 K, A)
        self.keys, self.v, self.memory, self.padding = 2 * keys.contiguous(), 2 * v, memory.contiguous(), padding
        self.energies = keys.new_empty(self.batch, self.length, dtype=torch.float32)
        self.sizes = {"taps": self.taps, "dim_block": max(16, triton.next_power_of_2(self.dim)), "rows_block": 32}
        self.sizes |= {"width": max(16, triton.next_power_of_2(2 * self.taps)), "precision": _precision()}

    def forward(
        self, query: Tensor, last: Tensor, total: Tensor, weights: Tensor, new_total: Tensor, context: Tensor
    ) -> None:
        length, memory_dim, blocks = self.length, self.memory.shape[2], triton.cdiv(self.length, 32)
        _energies[(self.batch, blocks)](
            self.energies, query, self.kernel, self.keys, self.v, last, total, self.padding, length, self.dim,
            query.stride(0), **self.sizes,
        )  # fmt: skip
        _softmax_and_context[(self.batch, triton.cdiv(memory_dim, 64))](
            self.energies, total, self.memory, weights, new_total, context, length, memory_dim, context.stride(0),
            length_block=triton.next_power_of_2(length), rows_block=32, memory_block=64,
        )  # fmt: skip


class AttentionStepBackward(AttentionStep):
    """See step_torch.AttentionStepBackward. `finish` computes the gradients of keys and kernel for all steps at once,
    the latter as one large product."""

    def __init__(
        self, kernel: Tensor, keys: Tensor, v: Tensor, memory: Tensor, carry: tuple[Tensor, Tensor],
        sums: AttentionSums, steps: int,
    ) -> None:  # fmt: skip
        super().__init__(kernel, keys, v, memory, padding=None)
        (self.d_patches, self.d_total), self.sums = carry, sums
        self.d_weight = torch.empty_like(self.d_total)
        self.rows_v = torch.zeros(self.batch, self.dim, dtype=torch.float32, device=keys.device)
        self.d_features = keys.new_empty(steps, self.batch, self.length, self.dim)

    def backward(self, t: int, step: Attended, d: AttendedGradients, d_context: Tensor, d_query: Tensor) -> None:
        length, memory_dim = self.length, self.memory.shape[2]
        _weights_backward[(self.batch, triton.cdiv(length, 32))](
            self.d_weight, self.d_total, d_context, d.context, d.recurrent, d.weights, self.d_patches, self.memory,
            length, memory_dim, d_context.stride(0), d.context.stride(0), d.recurrent.stride(0),
            taps=self.taps, rows_block=32, memory_block=64,
        )  # fmt: skip
        _features_backward[(self.batch,)](
            d_query, self.d_features[t], self.d_patches, self.rows_v, self.d_weight, step.weights, step.query,
            self.kernel, self.keys, self.v, step.last, step.total, length, self.dim, step.query.stride(0),
            d_query.stride(0), **self.sizes, **FEATURES_BACKWARD,
        )  # fmt: skip

    def finish(self, last: Tensor, totals: Tensor) -> None:
        pairs = torch.stack((last, totals), 3).flatten(0, 1)  # (S B, L, 2)
        padded = F.pad(pairs, (0, 0, self.taps // 2, self.taps // 2)).to(self.d_features.dtype)
        columns = padded.as_strided((len(padded), self.length, 2 * self.taps), (padded.stride(0), 2, 1))
        d_kernel = columns.reshape(-1, 2 * self.taps).t() @ self.d_features.flatten(0, 2)
        self.sums.kernel.add_(d_kernel.view(self.taps, 2, self.dim).permute(2, 1, 0))
        self.sums.keys.add_(self.d_features.sum(0))
        self.sums.v.add_(self.rows_v.sum(0))


def initial_carry(keys: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """See step_torch.initial_carry. Here the first tensor holds gradients of the next step's patches, (B, L, 2 K)."""
    batch, length, _ = keys.shape
    zeros = torch.zeros(batch, length, 2 * taps + 1, dtype=torch.float32, device=keys.device)
    return zeros[:, :, : 2 * taps].contiguous(), zeros[:, :, 0].contiguous()
