"""The fast training decoder: both recurrences over all frames, with backward passes written by hand.

When the frames are given, attention_rnn and the attention need nothing from decoder_rnn, so each recurrence has its own
loop. Products that do not depend on the previous step are computed all at once: those of the inputs before a loop, and
those for the weight gradients after it. The attention's tanh (B, L, A) in each step, the largest intermediate result,
is recomputed in the backward pass instead of being stored. The results are those of the step-by-step decoder
(tests/test_teacher_forcing.py).

On GPUs a loop runs in chunks of CHUNK steps, each a CUDA graph (common/ops/graphs.py) of matrix products and, where
they can run, Triton kernels.

Shapes: S steps, B batch, L characters, H cells, E memory, A attention, K taps of the location kernel, P inputs.
The gates of an LSTM are stored as input, forget, output, candidate, so that the three sigmoids are one block.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from common.ops.autograd import to_overwrite
from common.ops.graphs import graphed
from common.ops.packed import PackedLinear
from common.ops.padding import lengths_to_mask, pad_to_multiple
from common.ops.precision import compute_dtype
from tacotron2.step_torch import Attended, AttendedGradients, AttentionSums, at_least_float32, ops_for

# Steps in a chunk for each type of device; on others a chunk has all steps. Steps and characters are padded to a
# multiple of CHUNK, and clips to a multiple of CLIPS, so that few different shapes occur.
CHUNK = {"cuda": 32}
CLIPS = {"cuda": 8}


def sigmoids_first(weight: Tensor) -> Tensor:
    """Reorder rows (4 H, ...) of PyTorch's LSTM weights (input, forget, candidate, output) to the order used here."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((i, f, o, g))


# ---- chunks ----

Each = Annotated[Tensor, "each"]  # one entry for each step
Between = Annotated[Tensor, "between"]  # one entry before the first step and one after each
Group = TypeVar("Group", bound=tuple[Any, ...])  # NamedTuples of tensors


def in_chunks(
    function: Callable[..., None], steps: int, written: Group, read: tuple[Any, ...], backward: bool = False,
    **options: Any,
) -> None:  # fmt: skip
    """Call function(written, read, **options) per chunk, with fields of type Each and Between cut to its steps."""
    device = next(x for x in written if x is not None).device.type
    chunk = CHUNK.get(device, max(steps, 1))
    firsts = range(0, steps, chunk)
    for first in reversed(firsts) if backward else firsts:
        last = min(first + chunk, steps)
        graphed(function, _cut(written, first, last), _cut(read, first, last), **options)


def _cut(group: Group, first: int, last: int) -> Group:
    slices = {"each": slice(first, last), "between": slice(first, last + 1), "": ...}

    def cut(part: Any, kind: str) -> Any:
        if isinstance(part, tuple):
            return _cut(part, first, last)
        return part if part is None else part[slices[kind]]

    return type(group)(*(cut(part, kind) for part, kind in zip(group, _kinds(type(group)), strict=True)))


@functools.cache
def _kinds(group: type[Any]) -> tuple[str, ...]:
    """Return "each", "between" or "" for each field of a NamedTuple."""
    hints = typing.get_type_hints(group, include_extras=True)
    return tuple(_kind(hints[name]) for name in group._fields)


def _kind(hint: Any) -> str:
    for part in (hint, *typing.get_args(hint)):  # also Each | None
        if typing.get_origin(part) is Annotated:
            return str(part.__metadata__[0])
    return ""


def _outer(gradient: Tensor, x: Tensor) -> Tensor:
    """gradient.T @ x for a weight: gradient (S B, out), x (S, B, in) -> (out, in). BLAS is faster in this order."""
    return x.flatten(0, 1).t().mm(gradient).t()


def _at(kept: Tensor | None, t: int) -> Tensor | None:
    return None if kept is None else kept[t]


# ---- the LSTM alone ----


class LSTMForward(NamedTuple):
    """The tensors that the loop writes."""

    gates: Each  # (S, B, 4 H) products of the inputs, which become activations
    hidden: Between  # (S + 1, B, H)
    cells: Between  # (S + 1, B, H)


class LSTMWeights(NamedTuple):
    w_hh: Tensor  # (4 H, H)
    kept: Each | None  # (S, B, H) bool, dropout mask


class LSTMBackward(NamedTuple):
    """The tensors that the backward loop writes."""

    gates: Each  # (S, B, 4 H) activations, which become gradients
    d_cell: Tensor  # (B, H)
    d_recurrent: Tensor  # (B, H) gradient of the hidden state through the next step


class LSTMSaved(NamedTuple):
    cells: Between
    d_hidden: Each  # (S, B, H)
    w_hh: Tensor
    kept: Each | None


def _lstm(to: LSTMForward, weights: LSTMWeights, scale: float) -> None:
    ops, recurrent = ops_for(to.gates), PackedLinear(weights.w_hh, to.gates.shape[1])
    for t in range(len(to.gates)):
        kept = _at(weights.kept, t)
        ops.lstm_cell(to.gates[t], recurrent(to.hidden[t]), to.cells[t], to.cells[t + 1], to.hidden[t + 1], kept, scale)


def _lstm_backward(to: LSTMBackward, saved: LSTMSaved, scale: float) -> None:
    ops, recurrent = ops_for(to.gates), PackedLinear(saved.w_hh.t(), to.gates.shape[1])
    d_recurrent = to.d_recurrent
    for t in reversed(range(len(to.gates))):
        ops.lstm_cell_backward(
            to.gates[t], saved.cells[t], saved.cells[t + 1], saved.d_hidden[t], d_recurrent, None, to.d_cell,
            _at(saved.kept, t), scale,
        )  # fmt: skip
        d_recurrent = recurrent(to.gates[t])
    to.d_recurrent.copy_(d_recurrent)


class LSTMLoop(Function):
    """An LSTM whose recurrent input is its hidden state after dropout.

    inputs (S, B, P), w_ih (4 H, P), w_hh (4 H, H), bias (4 H), kept (S, B, H) bool or None -> hidden (S, B, H)
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor, kept: Tensor | None, scale: float
    ) -> Tensor:
        steps, batch, _ = inputs.shape
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)  # (S, B, 4 H)
        hidden, cells = inputs.new_zeros(2, steps + 1, batch, w_hh.shape[1])
        in_chunks(_lstm, steps, LSTMForward(gates, hidden, cells), LSTMWeights(w_hh, kept), scale=scale)
        ctx.save_for_backward(inputs, w_ih, w_hh, kept, gates, hidden, cells)
        ctx.scale = scale
        outputs: Tensor = hidden[1:]
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, kept, gates, hidden, cells = ctx.saved_tensors
        gates = to_overwrite(gates)
        written, read = LSTMBackward(gates, *torch.zeros_like(cells[:2])), LSTMSaved(cells, d_hidden, w_hh, kept)
        in_chunks(_lstm_backward, len(gates), written, read, backward=True, scale=ctx.scale)
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
    """A one-layer bidirectional LSTM over sequences x (B, L, P) of lengths (B) -> (B, L, 2 H), 0 beyond the lengths.

    Equivalent to pack_padded_sequence, but does not wait for a GPU to return the lengths.
    """
    length, dtype = x.shape[1], compute_dtype(x)
    place = torch.arange(length, device=x.device)
    mirrored = torch.where(place < lengths.unsqueeze(1), lengths.unsqueeze(1) - 1 - place, place)  # (B, L)

    def mirror(x: Tensor) -> Tensor:
        return x.gather(1, mirrored.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def run(x: Tensor, direction: str) -> Tensor:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        w_ih, w_hh, b_ih, b_hh = (getattr(lstm, name + direction) for name in names)
        weights = [sigmoids_first(weight).to(dtype) for weight in (w_ih, w_hh, b_ih + b_hh)]
        inputs = pad_to_multiple(x.to(dtype).transpose(0, 1), 0, CHUNK.get(x.device.type, 1))
        inputs = pad_to_multiple(inputs, 1, CLIPS.get(x.device.type, 1))
        outputs: Tensor = LSTMLoop.apply(inputs, *weights, None, 1.0)[:length, : len(x)]
        return outputs.transpose(0, 1)

    with torch.autocast(x.device.type, enabled=False):
        both = torch.cat((run(x, ""), mirror(run(mirror(x), "_reverse"))), 2)
    return both * lengths_to_mask(lengths, length).unsqueeze(2)


# ---- with attention ----


class AttentionWeights(NamedTuple):
    """The tensors that the loop reads."""

    w_hc: Tensor  # (4 H, H + E) for the hidden state and the context
    memory: Tensor  # (B, L, E)
    keys: Tensor  # (B, L, A)
    padding: Tensor | None  # (B, L) True beyond a text
    w_query: Tensor  # (A, H)
    w_location: Tensor  # (A, 2, K) for the last weights and the totals so far
    v: Tensor  # (A)
    kept: Each | None  # (S, B, H) bool, dropout mask


class AttentionForward(NamedTuple):
    """The tensors that the loop writes."""

    gates: Each  # (S, B, 4 H) products of the inputs, which become activations
    states: Between  # (S + 1, B, H + E) hidden state and context
    cells: Between  # (S + 1, B, H)
    queries: Each  # (S, B, A)
    weights: Between  # (S + 1, B, L)
    totals: Between  # (S + 1, B, L) sums of the weights so far


class AttentionBackward(NamedTuple):
    """The tensors that the backward loop writes."""

    gates: Each  # (S, B, 4 H) activations, which become gradients
    d_queries: Each  # (S, B, A)
    d_contexts: Each  # (S, B, E)
    d_cell: Tensor  # (B, H)
    d_recurrent: Tensor  # (B, H + E) gradient of the state through the next step
    carry_next: Tensor  # both carries: see step_torch.initial_carry
    carry_total: Tensor
    d_keys: Tensor
    d_location: Tensor
    d_v: Tensor


class AttentionSaved(NamedTuple):
    """The tensors that the backward loop reads."""

    cells: Between
    queries: Each
    weights: Between
    totals: Between
    d_states: Each  # (S, B, H + E)
    d_weights: Each  # (S, B, L)
    given: AttentionWeights


def _attention(to: AttentionForward, given: AttentionWeights, scale: float) -> None:
    ops, size = ops_for(to.gates, given.w_location), given.w_query.shape[1]
    attention = ops.AttentionStep(given.w_location, given.keys, given.v, given.memory, given.padding)
    recurrent, w_query_t = PackedLinear(given.w_hc, to.gates.shape[1]), given.w_query.t()
    for t in range(len(to.gates)):
        hidden, context = to.states[t + 1, :, :size], to.states[t + 1, :, size:]
        ops.lstm_cell(
            to.gates[t], recurrent(to.states[t]), to.cells[t], to.cells[t + 1], hidden, _at(given.kept, t), scale
        )
        torch.mm(hidden, w_query_t, out=to.queries[t])
        attention.forward(
            to.queries[t], to.weights[t], to.totals[t], to.weights[t + 1], to.totals[t + 1], context
        )  # fmt: skip


def _attention_backward(to: AttentionBackward, saved: AttentionSaved, scale: float) -> None:
    given = saved.given
    ops, size = ops_for(to.gates, given.w_location), given.w_query.shape[1]
    sums = AttentionSums(to.d_keys, to.d_location, to.d_v)
    attention = ops.AttentionStepBackward(
        given.w_location, given.keys, given.v, given.memory, (to.carry_next, to.carry_total), sums, len(to.gates)
    )
    recurrent, d_recurrent = PackedLinear(given.w_hc.t(), to.gates.shape[1]), to.d_recurrent
    for t in reversed(range(len(to.gates))):
        step = Attended(saved.queries[t], saved.weights[t], saved.totals[t], saved.weights[t + 1])
        gradients = AttendedGradients(saved.d_weights[t], saved.d_states[t, :, size:], d_recurrent[:, size:])
        attention.backward(t, step, gradients, to.d_contexts[t], to.d_queries[t])
        ops.lstm_cell_backward(
            to.gates[t], saved.cells[t], saved.cells[t + 1], saved.d_states[t, :, :size], d_recurrent[:, :size],
            to.d_queries[t].mm(given.w_query), to.d_cell, _at(given.kept, t), scale,
        )  # fmt: skip
        d_recurrent = recurrent(to.gates[t])
    to.d_recurrent.copy_(d_recurrent)
    attention.finish(saved.weights[:-1], saved.totals[:-1])


class AttentionLoop(Function):
    """attention_rnn and the location-sensitive attention.

    inputs (S, B, P), w_ih (4 H, P), bias (4 H), and the fields of AttentionWeights, one by one as autograd requires
    -> hidden state and context (S, B, H + E), weights (S, B, L) in float32 or more
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, w_ih: Tensor, bias: Tensor, scale: float, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        given = AttentionWeights(*tensors)
        (steps, batch, _), (dim, size), (length, memory_dim) = inputs.shape, given.w_query.shape, given.memory.shape[1:]
        gates = PackedLinear(w_ih, steps * batch, bias)(inputs.flatten(0, 1)).view(steps, batch, -1)
        states = inputs.new_zeros(steps + 1, batch, size + memory_dim)
        cells, queries = inputs.new_zeros(steps + 1, batch, size), inputs.new_empty(steps, batch, dim)
        weights, totals = inputs.new_zeros(2, steps + 1, batch, length, dtype=at_least_float32(inputs.dtype))
        written = AttentionForward(gates, states, cells, queries, weights, totals)
        in_chunks(_attention, steps, written, given, scale=scale)
        ctx.save_for_backward(inputs, w_ih, *written, *given)
        ctx.scale = scale
        return states[1:], weights[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_weights: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, *tensors = ctx.saved_tensors
        run, given = AttentionForward(*tensors[:6]), AttentionWeights(*tensors[6:])
        gates, size = to_overwrite(run.gates), given.w_query.shape[1]
        sums = [
            torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (given.keys, given.w_location, given.v)
        ]
        carry = ops_for(gates, given.w_location).initial_carry(given.keys, given.w_location.shape[2])
        written = AttentionBackward(
            gates, torch.empty_like(run.queries), torch.empty_like(run.states[1:, :, size:]),
            torch.zeros_like(run.cells[0]), torch.zeros_like(run.states[0]), *carry, *sums,
        )  # fmt: skip
        saved = AttentionSaved(
            run.cells, run.queries, run.weights, run.totals, d_states.contiguous(), d_weights.contiguous(), given
        )
        in_chunks(_attention_backward, len(gates), written, saved, backward=True, scale=ctx.scale)
        flat = gates.flatten(0, 1)
        hidden = run.states[1:, :, :size].flatten(0, 1)
        d_memory = torch.bmm(
            run.weights[1:].permute(1, 2, 0).to(given.memory.dtype), written.d_contexts.transpose(0, 1)
        )
        d_given = AttentionWeights(
            w_hc=_outer(flat, run.states[:-1]),
            memory=d_memory,
            keys=written.d_keys,
            padding=None,
            w_query=written.d_queries.flatten(0, 1).t().mm(hidden),
            w_location=written.d_location,
            v=written.d_v,
            kept=None,
        )
        d_inputs = PackedLinear(w_ih.t(), len(flat))(flat).view_as(inputs)
        return d_inputs, _outer(flat, inputs), flat.sum(0), None, *d_given
