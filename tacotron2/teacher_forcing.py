"""The decoder's two recurrences over all frames at once, with hand-written backward passes.

With a teacher, attention_rnn and the attention need nothing of decoder_rnn, so each is a loop of its own, and what does
not depend on the step before happens once, outside: the GEMMs of all inputs before a loop and of all weight gradients
after it. The attention's energies, the largest intermediate, are computed again in the backward pass instead of being
stored. The numbers are those of the step-by-step decoder (tests/test_loops.py).

On GPUs a loop runs in chunks of CHUNK steps, each a CUDA graph (common/graphs.py) of the kernels in kernels.py.

Shapes: S steps, B batch, L characters, H cells, E memory, A attention, K taps of the location kernel, P input.
Gates of an LSTM lie as input, forget, output, candidate: the three sigmoids are then one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from common.ops.autograd import to_overwrite
from common.ops.graphs import graphed
from common.ops.packed import PackedLinear
from common.ops.padding import fill, lengths_to_mask
from common.ops.precision import compute_dtype
from tacotron2.step_torch import at_least_float32, ops_for

# Steps of a chunk, and the numbers to a multiple of which steps and characters, and clips, are filled up, so that few
# shapes occur. On other devices all steps are one chunk.
CHUNK = {"cuda": 32}
CLIPS = {"cuda": 8}


def by_sigmoids(weight: Tensor) -> Tensor:
    """The rows (4 H, ...) of PyTorch's LSTM weights, input, forget, candidate, output, in the order used here."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((i, f, o, g))


_LSTM_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Each(NamedTuple):
    """A tensor with one entry for each step."""

    tensor: Tensor


class Between(NamedTuple):
    """One entry before the first step and one after each."""

    tensor: Tensor


Argument = Each | Between | Tensor | None


def in_chunks(
    function: Callable[..., None], steps: int, written: Sequence[Argument], read: Sequence[Argument],
    backwards: bool = False, **constants: Any,
) -> None:  # fmt: skip
    """function(*written, *read) on the steps' parts of all arguments, chunk after chunk."""
    first_written = next(x for x in written if isinstance(x, Each | Between)).tensor
    chunk = CHUNK.get(first_written.device.type, max(steps, 1))

    def part(argument: Argument, first: int) -> Tensor | None:
        last = min(first + chunk, steps)
        if isinstance(argument, Between):
            return argument.tensor[first : last + 1]
        return argument.tensor[first:last] if isinstance(argument, Each) else argument

    firsts = range(0, steps, chunk)
    for first in reversed(firsts) if backwards else firsts:
        graphed(function, [part(x, first) for x in written], [part(x, first) for x in read], **constants)


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient.T @ x for a weight: gradient (S B, out), x (S, B, in) -> (out, in); this way round BLAS is faster."""
    return x.flatten(0, 1).t().mm(gradient).t()


def _each(kept: Tensor | None) -> Each | None:
    return None if kept is None else Each(kept)


# ---- the LSTM alone ----


def _lstm(gates: Tensor, hidden: Tensor, cells: Tensor, w_hh: Tensor, kept: Tensor | None, scale: float) -> None:
    ops, feed_back = ops_for(gates), PackedLinear(w_hh, gates.shape[1])
    for t in range(len(gates)):
        mask = None if kept is None else kept[t]
        ops.lstm_cell(gates[t], feed_back(hidden[t]), cells[t], cells[t + 1], hidden[t + 1], mask, scale)


def _lstm_backward(
    gates: Tensor, d_cell: Tensor, d_fed_back: Tensor, cells: Tensor, d_hidden: Tensor, w_hh: Tensor,
    kept: Tensor | None, scale: float,
) -> None:  # fmt: skip
    ops, feed_back, fed_back = ops_for(gates), PackedLinear(w_hh.t(), gates.shape[1]), d_fed_back
    for t in reversed(range(len(gates))):
        mask = None if kept is None else kept[t]
        ops.lstm_cell_backward(gates[t], cells[t], cells[t + 1], d_hidden[t], fed_back, None, d_cell, mask, scale)
        fed_back = feed_back(gates[t])
    d_fed_back.copy_(fed_back)


class LSTMLoop(Function):
    """An LSTM whose dropped-out hidden state is what is fed back.

    inputs (S, B, P), w_ih (4 H, P), w_hh (4 H, H), bias (4 H), kept (S, B, H) bool or None -> hidden (S, B, H)
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, kept: Tensor | None, scale: float
    ) -> Tensor:
        steps, batch, _ = inputs.shape
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)  # (S, B, 4 H)
        hidden, cells = inputs.new_zeros(2, steps + 1, batch, w_hh.shape[1])
        in_chunks(_lstm, steps, [Each(gates), Between(hidden), Between(cells)], [w_hh, _each(kept)], scale=scale)
        ctx.save_for_backward(inputs, w_ih, w_hh, kept, gates, hidden, cells)
        ctx.scale = scale
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, kept, gates, hidden, cells = ctx.saved_tensors
        gates = to_overwrite(gates)
        d_cell, d_fed_back = torch.zeros_like(cells[:2])
        in_chunks(
            _lstm_backward, len(gates), [Each(gates), d_cell, d_fed_back],
            [Between(cells), Each(d_hidden), w_hh, _each(kept)], backwards=True, scale=ctx.scale,
        )  # fmt: skip
        flat = gates.flatten(0, 1)
        return (
            PackedLinear(w_ih.t(), len(flat))(flat).view_as(inputs),
            _outer(flat, inputs),
            _outer(flat, hidden[:-1]),
            flat.sum(0),
            None,
            None,
        )


def bidirectional(lstm: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    """A one-layer bidirectional LSTM over sequences x (B, L, P) of lengths (B) -> (B, L, 2 H), 0 beyond the lengths: as
    with pack_padded_sequence, but nothing waits for the device to tell the lengths."""
    length, dtype = x.shape[1], compute_dtype(x)
    place = torch.arange(length, device=x.device)
    mirrored = torch.where(place < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - place, place)  # (B, L)

    def mirror(x: Tensor) -> Tensor:
        return x.gather(1, mirrored.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def run(x: Tensor, direction: str) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = (getattr(lstm, name + direction) for name in _LSTM_WEIGHTS)
        weights = [by_sigmoids(weight).to(dtype) for weight in (w_ih, w_hh, b_ih + b_hh)]
        inputs = fill(x.to(dtype).transpose(0, 1), 0, CHUNK.get(x.device.type, 1))
        inputs = fill(inputs, 1, CLIPS.get(x.device.type, 1))
        return LSTMLoop.apply(inputs, *weights, None, 1.0)[:length, : len(x)].transpose(0, 1)

    with torch.autocast(x.device.type, enabled=False):
        both = torch.cat((run(x, ""), mirror(run(mirror(x), "_reverse"))), 2)
    return both * lengths_to_mask(lengths, length).unsqueeze(2)


# ---- with attention ----


def _attention(
    gates: Tensor, states: Tensor, cells: Tensor, queries: Tensor, weights: Tensor, totals: Tensor, w_hc: Tensor,
    memory: Tensor, keys: Tensor, padding: Tensor, w_query: Tensor, w_location: Tensor, v: Tensor,
    kept: Tensor | None, scale: float,
) -> None:  # fmt: skip
    ops, size = ops_for(gates, w_location), w_query.shape[1]
    attention = ops.AttentionStep(w_location, keys, v, memory, padding)
    feed_back, w_query_t = PackedLinear(w_hc, gates.shape[1]), w_query.t()
    for t in range(len(gates)):
        mask = None if kept is None else kept[t]
        hidden, context = states[t + 1, :, :size], states[t + 1, :, size:]
        ops.lstm_cell(gates[t], feed_back(states[t]), cells[t], cells[t + 1], hidden, mask, scale)
        torch.mm(hidden, w_query_t, out=queries[t])
        attention.forward(queries[t], weights[t], totals[t], weights[t + 1], totals[t + 1], context)


def _attention_backward(
    gates: Tensor, d_queries: Tensor, d_contexts: Tensor, d_cell: Tensor, d_fed_back: Tensor, carried_1: Tensor,
    carried_2: Tensor, d_keys: Tensor, d_location: Tensor, d_v: Tensor, cells: Tensor, queries: Tensor,
    weights: Tensor, totals: Tensor, d_states: Tensor, d_weights: Tensor, w_hc: Tensor, memory: Tensor, keys: Tensor,
    w_query: Tensor, w_location: Tensor, v: Tensor, kept: Tensor | None, scale: float,
) -> None:  # fmt: skip
    ops, size = ops_for(gates, w_location), w_query.shape[1]
    attention = ops.AttentionStepBackward(
        w_location, keys, v, memory, None, [carried_1, carried_2], [d_keys, d_location, d_v], len(gates)
    )
    feed_back, fed_back = PackedLinear(w_hc.t(), gates.shape[1]), d_fed_back
    for t in reversed(range(len(gates))):
        attention.backward(
            t, queries[t], weights[t], totals[t], weights[t + 1], d_weights[t], d_states[t, :, size:],
            fed_back[:, size:], d_contexts[t], d_queries[t],
        )  # fmt: skip
        ops.lstm_cell_backward(
            gates[t], cells[t], cells[t + 1], d_states[t, :, :size], fed_back[:, :size], d_queries[t].mm(w_query),
            d_cell, None if kept is None else kept[t], scale,
        )  # fmt: skip
        fed_back = feed_back(gates[t])
    d_fed_back.copy_(fed_back)
    attention.finish(weights[:-1], totals[:-1])


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
        (steps, batch, _), (dim, size), (length, memory_dim) = inputs.shape, w_query.shape, memory.shape[1:]
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)
        states = inputs.new_zeros(steps + 1, batch, size + memory_dim)
        cells, queries = inputs.new_zeros(steps + 1, batch, size), inputs.new_empty(steps, batch, dim)
        weights, totals = inputs.new_zeros(2, steps + 1, batch, length, dtype=at_least_float32(inputs.dtype))
        in_chunks(
            _attention, steps,
            [Each(gates), Between(states), Between(cells), Each(queries), Between(weights), Between(totals)],
            [w_hc, memory, keys, padding, w_query, w_location, v, _each(kept)], scale=scale,
        )  # fmt: skip
        ctx.save_for_backward(
            inputs, w_ih, w_hc, memory, keys, w_query, w_location, v, kept, gates, states, cells, queries, weights,
            totals,
        )  # fmt: skip
        ctx.scale = scale
        return states[1:], weights[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        (inputs, w_ih, w_hc, memory, keys, w_query, w_location, v, kept,
         gates, states, cells, queries, weights, totals) = ctx.saved_tensors  # fmt: skip
        gates, size = to_overwrite(gates), w_query.shape[1]
        d_queries, d_contexts = torch.empty_like(queries), torch.empty_like(states[1:, :, size:])
        d_cell, d_fed_back = torch.zeros_like(cells[0]), torch.zeros_like(states[0])
        sums = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (keys, w_location, v)]
        carried = ops_for(gates, w_location).carried_backward(keys, w_location.shape[2])
        in_chunks(
            _attention_backward, len(gates),
            [Each(gates), Each(d_queries), Each(d_contexts), d_cell, d_fed_back, *carried, *sums],
            [Between(cells), Each(queries), Between(weights), Between(totals), Each(d_states.contiguous()),
             Each(d_weights.contiguous()), w_hc, memory, keys, w_query, w_location, v, _each(kept)],
            backwards=True, scale=ctx.scale,
        )  # fmt: skip
        flat = gates.flatten(0, 1)
        hidden = states[1:, :, :size].flatten(0, 1)
        return (
            PackedLinear(w_ih.t(), len(flat))(flat).view_as(inputs),
            _outer(flat, inputs),
            _outer(flat, states[:-1]),
            flat.sum(0),
            torch.bmm(weights[1:].permute(1, 2, 0).to(memory.dtype), d_contexts.transpose(0, 1)),
            sums[0],
            None,
            d_queries.flatten(0, 1).t().mm(hidden),
            sums[1],
            sums[2],
            None,
            None,
        )
