"""The LSTM cell and the attention of one decoder step in plain PyTorch, forward and backward.

The callers compute the products around them: the gates, the query, the prenet and the output layer.
tacotron2/step_triton.py has the same functions for GPUs, with the same results; `ops_for` chooses between the two.

Shapes: B batch, L characters, H cells, E memory, A attention, K taps of the location kernel.
The gates of an LSTM are stored as input, forget, output, candidate, so that the three sigmoids are one block.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.padding import pad_to_multiple
from common.ops.triton import runs_kernels

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input

# Characters in a product with the attention weights. A longer one sums in an order that depends on the length: the bits
# of a text would depend on the longest text of the batch.
BLOCK = 128
# The number of columns in that product is a multiple of this; else, on some CPUs, the order depends on the length.
COLUMNS = 16
MAX_TILE = 64 * 256  # elements of the largest location kernel that fits in a GPU's shared memory with everything else


def ops_for(x: Tensor, w_location: Tensor | None = None) -> ModuleType:
    """Return the module whose step supports the device and precision of x and this location kernel (A, 2, K)."""
    is_small = w_location is None or 2 * w_location.shape[2] * w_location.shape[0] <= MAX_TILE
    if not is_small or not runs_kernels(x):
        return sys.modules[__name__]
    from tacotron2 import step_triton

    return step_triton


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of attention weights: in half precision a softmax over hundreds of characters loses its tail."""
    return torch.promote_types(dtype, torch.float32)


# ---- LSTM ----


def lstm_cell(
    gates: Tensor, recurrent: Tensor | None, before: Tensor, after: Tensor, hidden: Tensor, kept: Tensor | None,
    scale: float,
) -> None:  # fmt: skip
    """One LSTM step: turn gates (B, 4 H) plus `recurrent` into activations, in place. Write the new cell state to
    `after` (which may be `before`), and the hidden state, after dropout with kept (B, H) and scale, to `hidden`."""
    size = before.shape[1]
    if recurrent is not None:
        gates += recurrent
    sigmoids, g = gates.split((3 * size, size), 1)
    i, f, o = sigmoids.sigmoid_().chunk(3, 1)
    g.tanh_()
    torch.mul(f, before, out=after).addcmul_(i, g)
    torch.tanh(after, out=hidden).mul_(o)
    if kept is not None:
        hidden.mul_(kept).mul_(scale)


def lstm_cell_backward(
    gates: Tensor, before: Tensor, after: Tensor, d_hidden: Tensor, d_recurrent: Tensor, d_query_hidden: Tensor | None,
    d_cell: Tensor, kept: Tensor | None, scale: float,
) -> None:  # fmt: skip
    """Turn the activations in `gates` into gradients of the gates before activation, and d_cell (B, H), the gradient of
    the new cell state, into that of the previous one. The hidden state's gradient is d_hidden + d_recurrent +
    d_query_hidden."""
    size = before.shape[1]
    d_hidden = d_hidden + d_recurrent
    if d_query_hidden is not None:
        d_hidden += d_query_hidden
    if kept is not None:
        d_hidden.mul_(kept).mul_(scale)
    i, f, o, g = gates.chunk(4, 1)
    tanh = torch.tanh(after)
    d_cell += torch.ops.aten.tanh_backward(d_hidden * o, tanh)
    d_gates = torch.cat((d_cell * g, d_cell * before, d_hidden * tanh, d_cell * i), 1)
    d_cell *= f
    _sigmoid_backward(d_gates[:, : 3 * size], gates[:, : 3 * size], grad_input=gates[:, : 3 * size])
    _tanh_backward(d_gates[:, 3 * size :], gates[:, 3 * size :], grad_input=gates[:, 3 * size :])


# ---- attention ----


class Attended(NamedTuple):
    """Inputs and output of one attention step."""

    query: Tensor  # (B, A)
    last: Tensor  # (B, L) weights of the previous step
    total: Tensor  # (B, L) sum of the weights of all previous steps
    weights: Tensor  # (B, L)


class AttendedGradients(NamedTuple):
    """Gradients that reach one attention step, except through the attention of later steps."""

    weights: Tensor  # (B, L)
    context: Tensor  # (B, E)
    recurrent: Tensor  # (B, E) also of the context, through the LSTM of the next step


class AttentionSums(NamedTuple):
    """Gradients to which all steps add."""

    keys: Tensor  # (B, L, A)
    kernel: Tensor  # (A, 2, K)
    v: Tensor  # (A)


class AttentionStep:
    """Compute softmax(v . tanh(query + keys + location features)) and the context, for the location kernel (A, 2, K),
    keys (B, L, A), v (A), memory (B, L, E), and padding (B, L), which is True beyond a text, or None if there is none.

    tanh(x) = 2 sigmoid(2 x) - 1, and CPUs compute a sigmoid several times faster: keys, kernel and v are doubled once.
    The remaining constant does not change the softmax.

    The location features are one convolution: the reference's filters and the layer after them, folded into one kernel.
    It is computed as a product with patches (B L, 2 K), in which `last` and `total` (see Attended) alternate.
    """

    def __init__(self, kernel: Tensor, keys: Tensor, v: Tensor, memory: Tensor, padding: Tensor | None) -> None:
        self.batch, self.length, self.dim = keys.shape
        self.taps = kernel.shape[2]
        self.kernel = 2 * kernel.permute(2, 1, 0).reshape(2 * self.taps, self.dim)  # (2 K, A)
        self.keys, self.v, self.memory, self.padding = 2 * keys.flatten(0, 1), 2 * v, memory, padding
        self.blocks = pad_to_multiple(memory, 2, COLUMNS).split(BLOCK, 1)
        self.pad = self.taps // 2
        self.padded = keys.new_zeros(self.batch, self.length + 2 * self.pad, 2)
        self.patches = self.padded.as_strided(
            (self.batch, self.length, 2 * self.taps), (self.padded.stride(0), 2, 1)
        )  # (B, L, 2 K)
        self.columns = keys.new_empty(self.batch * self.length, 2 * self.taps)
        self.features = torch.empty_like(self.keys)  # (B L, A)
        # Views, made once
        self.seen = self.padded[:, self.pad : self.pad + self.length].unbind(2)  # last and total, each (B, L)
        self.columns_of_patches = self.columns.view_as(self.patches)
        self.features_of_texts = self.features.view(self.batch, self.length, self.dim)

    def forward(
        self, query: Tensor, last: Tensor, total: Tensor, weights: Tensor, new_total: Tensor, context: Tensor
    ) -> None:
        """Take query (B, A), and last and total (B, L), as in Attended. Write the new weights, the new total to
        `new_total` (which may be `total`), and the context (B, E)."""
        energies = (self._sigmoid(query, last, total) @ self.v).to(weights.dtype)
        if self.padding is not None:
            energies.masked_fill_(self.padding, float("-inf"))
        torch.softmax(energies, 1, out=weights)
        torch.add(total, weights, out=new_total)
        first, *others = map(torch.bmm, weights.to(self.memory.dtype).unsqueeze(1).split(BLOCK, 2), self.blocks)
        size = context.shape[1]
        context.copy_(first[:, 0, :size])
        for other in others:
            context += other[:, 0, :size]

    def _sigmoid(self, query: Tensor, last: Tensor, total: Tensor) -> Tensor:
        """Return sigmoid(2 (query + keys + location features)) (B, L, A), valid until the next call."""
        self.seen[0].copy_(last)
        self.seen[1].copy_(total)
        self.columns_of_patches.copy_(self.patches)
        torch.addmm(self.keys, self.columns, self.kernel, out=self.features)
        return self.features_of_texts.add_(query.unsqueeze(1), alpha=2).sigmoid_()


def initial_carry(keys: Tensor, taps: int) -> tuple[Tensor, Tensor]:
    """Return the initial carry of AttentionStepBackward: two tensors of zeros (B, L).

    As the backward pass goes on, the first holds the gradient of a step's weights through the location features of the
    next step, and the second that of the new total through the location features of all later steps.
    """
    zeros = keys.new_zeros(2, *keys.shape[:2], dtype=at_least_float32(keys.dtype))
    return zeros[0], zeros[1]


class AttentionStepBackward(AttentionStep):
    """The backward pass of `steps` steps. `carry` passes from step to step; `sums` are complete after `finish`."""

    def __init__(
        self, kernel: Tensor, keys: Tensor, v: Tensor, memory: Tensor, carry: tuple[Tensor, Tensor],
        sums: AttentionSums, steps: int,
    ) -> None:  # fmt: skip
        super().__init__(kernel, keys, v, memory, padding=None)  # the weights of padding are known to be 0
        (self.d_next, self.d_total), self.sums = carry, sums
        self.memory_t = memory.transpose(1, 2).contiguous()
        self.d_columns = torch.zeros_like(self.kernel)

    def backward(self, t: int, step: Attended, d: AttendedGradients, d_context: Tensor, d_query: Tensor) -> None:
        """Step t: write the total gradient of its context to d_context (B, E) and of its query to d_query (B, A)."""
        torch.add(d.context, d.recurrent, out=d_context)
        d_weight = torch.bmm(d_context.unsqueeze(1), self.memory_t).squeeze(1).to(step.weights.dtype)
        d_weight += self.d_next
        d_weight += self.d_total
        d_weight += d.weights
        d_energies = torch.ops.aten._softmax_backward_data(d_weight, step.weights, 1, step.weights.dtype)
        sigmoid = self._sigmoid(step.query, step.last, step.total)
        d_energies = d_energies.to(sigmoid.dtype)
        # tanh is 2 sigmoid - 1; the -1 adds nothing, because each row of d_energies sums to 0.
        self.sums.v.addmv_(self.features.t(), d_energies.flatten(), alpha=2)
        d_features = _sigmoid_backward(d_energies.unsqueeze(2) * (2 * self.v), sigmoid, grad_input=sigmoid)  # (B, L, A)
        torch.sum(d_features, 1, out=d_query)
        self.sums.keys.add_(d_features)
        self.d_columns.addmm_(self.columns.t(), self.features)
        d_patches = self.features.mm(self.kernel.t() / 2).view(self.batch, self.length, self.taps, 2)
        d_padded = F.fold(
            d_patches.permute(0, 3, 2, 1).reshape(self.batch, 2 * self.taps, self.length),
            (1, self.padded.shape[1]), (1, self.taps),
        )[:, :, 0, self.pad : self.pad + self.length]  # fmt: skip
        self.d_next.copy_(d_padded[:, 0])
        self.d_total += d_padded[:, 1]

    def finish(self, last: Tensor, totals: Tensor) -> None:
        """Complete `sums`. last and totals (S, B, L) are those of all steps, which `backward` received one by one."""
        self.sums.kernel.add_(self.d_columns.view(self.taps, 2, self.dim).permute(2, 1, 0))
