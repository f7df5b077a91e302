"""The decoder's two recurrences over all frames at once, with hand-written backward passes.

With a teacher, attention_rnn and the attention need nothing of decoder_rnn, so each is a loop of its own, and what does
not depend on the step before happens once, outside: the GEMMs of all inputs before a loop and of all weight gradients
after it. The attention's energies, the largest intermediate, are computed again in the backward pass instead of being
stored. The numbers are those of the step-by-step decoder (tests/test_loops.py).

Shapes: S steps, B batch, L characters, H cells, E memory, A attention, K taps of the location kernel, P input.
Gates of an LSTM lie as input, forget, output, candidate: the three sigmoids are then one block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from common.packed import PackedLinear

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """What attention weights are kept in: a softmax over some hundred characters loses its tail in half precision."""
    return torch.promote_types(dtype, torch.float32)


def by_sigmoids(weight: Tensor) -> Tensor:
    """The rows (4 H, ...) of PyTorch's LSTM weights, input, forget, candidate, output, in the order used here."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((i, f, o, g))


def lstm_cell(
    gates: Tensor, before: Tensor, after: Tensor, hidden: Tensor, kept: Tensor | None = None, scale: float = 1.0
) -> None:
    """One LSTM step: gates (B, 4 H) become activations in place; the new cell and (dropped-out) hidden state are
    written to `after`, which may be `before`, and `hidden`."""
    size = before.shape[1]
    gates[:, : 3 * size].sigmoid_()
    gates[:, 3 * size :].tanh_()
    i, f, o, g = gates.chunk(4, 1)
    torch.mul(f, before, out=after).addcmul_(i, g)
    torch.tanh(after, out=hidden).mul_(o)
    if kept is not None:
        hidden.mul_(kept).mul_(scale)


def lstm_cell_backward(
    gates: Tensor, before: Tensor, after: Tensor, d_hidden: Tensor, d_cell: Tensor, kept: Tensor | None, scale: float
) -> Tensor:
    """The gradient of the cell before; activations in `gates` become the gradients of what was before them. d_hidden
    is used up."""
    size = before.shape[1]
    if kept is not None:
        d_hidden.mul_(kept).mul_(scale)
    i, f, o, g = gates.chunk(4, 1)
    tanh = torch.tanh(after)
    d_cell = d_cell + torch.ops.aten.tanh_backward(d_hidden * o, tanh)
    d_before = d_cell * f
    d_gates = torch.cat((d_cell * g, d_cell * before, d_hidden * tanh, d_cell * i), 1)
    _sigmoid_backward(d_gates[:, : 3 * size], gates[:, : 3 * size], grad_input=gates[:, : 3 * size])
    _tanh_backward(d_gates[:, 3 * size :], gates[:, 3 * size :], grad_input=gates[:, 3 * size :])
    return d_before


def _own(activations: Tensor) -> Tensor:
    """What the backward pass may overwrite: the forward pass's memory, unless the graph is kept for another pass."""
    return activations.clone() if torch._C._autograd._get_current_graph_task_keep_graph() else activations


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient.T @ x for a weight: gradient (S B, out), x (S, B, in) -> (out, in); this way round BLAS is faster."""
    return x.flatten(0, 1).t().mm(gradient).t()


class LSTMLoop(Function):
    """An LSTM whose dropped-out hidden state is what is fed back.

    inputs (S, B, P), w_ih (4 H, P), w_hh (4 H, H), bias (4 H), kept (S, B, H) bool or None -> hidden (S, B, H)
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, kept: Tensor | None, scale: float
    ) -> Tensor:
        steps, batch, _ = inputs.shape
        size = w_hh.shape[1]
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)  # (S, B, 4 H)
        hidden = inputs.new_zeros(steps + 1, batch, size)
        cells = inputs.new_zeros(steps + 1, batch, size)
        feed_back = PackedLinear(w_hh, batch)
        for t in range(steps):
            gates[t] += feed_back(hidden[t])
            lstm_cell(gates[t], cells[t], cells[t + 1], hidden[t + 1], None if kept is None else kept[t], scale)
        ctx.save_for_backward(inputs, w_ih, w_hh, kept, gates, hidden, cells)
        ctx.scale = scale
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, kept, gates, hidden, cells = ctx.saved_tensors
        gates = _own(gates)
        feed_back = PackedLinear(w_hh.t(), inputs.shape[1])
        d_cell, d_fed_back = torch.zeros_like(cells[0]), torch.zeros_like(cells[0])
        for t in reversed(range(len(inputs))):
            mask = None if kept is None else kept[t]
            d_cell = lstm_cell_backward(
                gates[t], cells[t], cells[t + 1], d_hidden[t] + d_fed_back, d_cell, mask, ctx.scale
            )
            d_fed_back = feed_back(gates[t])
        flat = gates.flatten(0, 1)
        return (
            PackedLinear(w_ih.t(), len(flat))(flat).view_as(inputs),
            _outer(flat, inputs),
            _outer(flat, hidden[:-1]),
            flat.sum(0),
            None,
            None,
        )


class AttentionLoop(Function):
    """attention_rnn and the location-sensitive attention.

    inputs (S, B, P), w_ih (4 H, P), w_hc (4 H, H + E) for the hidden state and the context, bias (4 H),
    memory (B, L, E), keys (B, L, A), padding (B, L) True beyond a text, w_query (A, H),
    w_location (A, 2, K) for the last weights and their sum, v (A), kept (S, B, H) bool or None
    -> hidden and context (S, B, H + E), weights (S, B, L) in float32 at least
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, w_ih: Tensor, w_hc: Tensor, bias: Tensor, memory: Tensor, keys: Tensor,
        padding: Tensor, w_query: Tensor, w_location: Tensor, v: Tensor, kept: Tensor | None, scale: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        steps, batch, _ = inputs.shape
        size, (length, memory_dim) = w_query.shape[1], memory.shape[1:]
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)
        states = inputs.new_zeros(steps + 1, batch, size + memory_dim)
        cells = inputs.new_zeros(steps + 1, batch, size)
        queries = inputs.new_empty(steps, batch, w_query.shape[0])
        weights = inputs.new_zeros(steps + 1, batch, length, dtype=at_least_float32(inputs.dtype))
        location = Location(w_location, keys, v)
        feed_back, w_query_t = PackedLinear(w_hc, batch), w_query.t()
        total = torch.zeros_like(weights[0])
        for t in range(steps):
            gates[t] += feed_back(states[t])
            hidden, context = states[t + 1].split((size, memory_dim), 1)
            lstm_cell(gates[t], cells[t], cells[t + 1], hidden, None if kept is None else kept[t], scale)
            torch.mm(hidden, w_query_t, out=queries[t])
            energies = location.energies(queries[t], weights[t], total)
            energies = energies.to(weights.dtype).masked_fill_(padding, float("-inf"))
            torch.softmax(energies, 1, out=weights[t + 1])
            total += weights[t + 1]
            context.copy_(torch.bmm(weights[t + 1].to(memory.dtype).unsqueeze(1), memory).squeeze(1))
        ctx.save_for_backward(
            inputs, w_ih, w_hc, memory, keys, w_query, w_location, v, kept, gates, states, cells, queries, weights
        )
        ctx.scale = scale
        return states[1:], weights[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        (inputs, w_ih, w_hc, memory, keys, w_query, w_location, v, kept,
         gates, states, cells, queries, weights) = ctx.saved_tensors  # fmt: skip
        gates, size = _own(gates), w_query.shape[1]
        location = Location(w_location, keys, v)
        total = weights.sum(0)
        memory_t = memory.transpose(1, 2).contiguous()
        d_queries, d_contexts = torch.empty_like(queries), torch.empty_like(states[1:, :, size:])
        feed_back = PackedLinear(w_hc.t(), inputs.shape[1])
        d_cell, d_fed_back = torch.zeros_like(cells[0]), torch.zeros_like(states[0])
        d_next = torch.zeros_like(weights[0])  # of this step's weights, from the location features of the next step
        d_total = torch.zeros_like(weights[0])  # of their sum, from all later steps
        for t in reversed(range(len(inputs))):
            d_state = d_states[t] + d_fed_back
            d_contexts[t] = d_state[:, size:]
            d_weight = torch.bmm(d_contexts[t].unsqueeze(1), memory_t).squeeze(1).to(weights.dtype)
            d_weight += d_next
            d_weight += d_total
            d_weight += d_weights[t]
            d_energies = torch.ops.aten._softmax_backward_data(d_weight, weights[t + 1], 1, weights.dtype)
            total -= weights[t + 1]
            d_next, d_sum = location.backward(queries[t], weights[t], total, d_energies, d_queries[t])
            d_total += d_sum
            d_hidden = torch.addmm(d_state[:, :size], d_queries[t], w_query)
            mask = None if kept is None else kept[t]
            d_cell = lstm_cell_backward(gates[t], cells[t], cells[t + 1], d_hidden, d_cell, mask, ctx.scale)
            d_fed_back = feed_back(gates[t])
        flat = gates.flatten(0, 1)
        hidden = states[1:, :, :size].flatten(0, 1)
        return (
            PackedLinear(w_ih.t(), len(flat))(flat).view_as(inputs),
            _outer(flat, inputs),
            _outer(flat, states[:-1]),
            flat.sum(0),
            torch.bmm(weights[1:].permute(1, 2, 0).to(memory.dtype), d_contexts.transpose(0, 1)),
            location.d_keys,
            None,
            d_queries.flatten(0, 1).t().mm(hidden),
            location.d_kernel(),
            location.d_v,
            None,
            None,
        )


class Location:
    """A step's energies v . tanh(query + keys + location features), and their gradients.

    tanh(x) is 2 sigmoid(2 x) - 1, of which CPUs compute the sigmoid several times faster: keys and kernel are doubled
    once, and so is v. What is left is a constant that a softmax does not see.

    The location features are one convolution: the reference's filters and the layer behind them folded into one kernel.
    As a GEMM it takes patches (B L, 2 K) of the last weights and of their sum, which lie side by side.
    """

    def __init__(self, kernel: Tensor, keys: Tensor, v: Tensor) -> None:
        self.batch, self.length, self.dim = keys.shape
        self.taps = kernel.shape[2]
        self.kernel = 2 * kernel.permute(2, 1, 0).reshape(2 * self.taps, self.dim)  # (2 K, A)
        self.keys, self.v = 2 * keys.flatten(0, 1), 2 * v
        self.pad = self.taps // 2
        self.padded = keys.new_zeros(self.batch, self.length + 2 * self.pad, 2)
        self.patches = self.padded.as_strided(
            (self.batch, self.length, 2 * self.taps), (self.padded.stride(0), 2, 1)
        )  # (B, L, 2 K)
        self.columns = keys.new_empty(self.batch * self.length, 2 * self.taps)
        self.features = torch.empty_like(self.keys)  # (B L, A)
        self.d_keys = torch.zeros_like(keys)
        self.d_v = torch.zeros_like(v)
        self.d_columns = torch.zeros_like(self.kernel)

    def energies(self, query: Tensor, weights: Tensor, total: Tensor) -> Tensor:
        """query (B, A), weights and total (B, L) -> (B, L), less the sum of v"""
        return self._sigmoid(query, weights, total) @ self.v

    def _sigmoid(self, query: Tensor, weights: Tensor, total: Tensor) -> Tensor:
        """(B, L, A), valid until the next call"""
        inside = self.padded[:, self.pad : self.pad + self.length]
        inside[..., 0] = weights
        inside[..., 1] = total
        self.columns.view_as(self.patches).copy_(self.patches)
        torch.addmm(self.keys, self.columns, self.kernel, out=self.features)
        features = self.features.view(self.batch, self.length, self.dim)
        return features.add_(query.unsqueeze(1), alpha=2).sigmoid_()

    def backward(
        self, query: Tensor, weights: Tensor, total: Tensor, d_energies: Tensor, d_query: Tensor
    ) -> tuple[Tensor, Tensor]:
        """d_energies (B, L) -> gradients of weights and total (B, L); d_query (B, A) is written."""
        sigmoid = self._sigmoid(query, weights, total)
        d_energies = d_energies.to(sigmoid.dtype)
        self.d_v.addmv_(self.features.t(), d_energies.flatten(), alpha=2)  # d_energies sum to 0 in each row
        d_features = _sigmoid_backward(d_energies.unsqueeze(2) * (2 * self.v), sigmoid, grad_input=sigmoid)  # (B, L, A)
        torch.sum(d_features, 1, out=d_query)
        self.d_keys += d_features
        self.d_columns.addmm_(self.columns.t(), self.features)
        d_patches = self.features.mm(self.kernel.t() / 2).view(self.batch, self.length, self.taps, 2)
        d_padded = F.fold(
            d_patches.permute(0, 3, 2, 1).reshape(self.batch, 2 * self.taps, self.length),
            (1, self.padded.shape[1]), (1, self.taps),
        )[:, :, 0, self.pad : self.pad + self.length].to(weights.dtype)  # fmt: skip
        return d_padded[:, 0], d_padded[:, 1]

    def d_kernel(self) -> Tensor:
        """(A, 2, K)"""
        return self.d_columns.view(self.taps, 2, self.dim).permute(2, 1, 0)
