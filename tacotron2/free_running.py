"""The fast inference decoder, with as little memory traffic per step as possible.

At batch 1 a step takes as long as reading the weights, so each LSTM has one matrix for all its inputs, and the
projection and the gate share one. The inputs of these products are slices of one buffer: prenet | attention hidden |
context | decoder hidden. Utterances that have stopped are removed from the batch. On a CPU an utterance has the same
bits in any batch, and it may join one that is running: no product here sums in an order that depends on the other
rows. On GPUs several steps form one CUDA graph (common/ops/graphs.py). The results are those of the step-by-step
decoder (tests/test_free_running.py).

Shapes: S steps, B batch, L characters, E memory, A attention, K taps of the location kernel, F = n_mels * r values in
the frames of a step.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.dropout import Generators, draw_factors
from common.ops.graphs import graphed
from common.ops.packed import Float16Linear, Int8Linear, PackedLinear, packed_once
from tacotron2.progress import CHECK_EVERY, Limits, Progress
from tacotron2.step_torch import at_least_float32, ops_for
from tacotron2.teacher_forcing import CHUNK, sigmoids_first

if TYPE_CHECKING:
    from tacotron2.model import Decoder, Memory

# Texts are padded to a multiple of so many characters. On a CPU, products of other lengths sum their last elements in
# another order; on a GPU, few different shapes occur.
CHARACTERS = {"cpu": 16, **CHUNK}
COMPACT_BELOW = 3 / 4  # the batch is compacted when at most this fraction of it is still running
ROWS = 16  # that weights are packed for: a layout for one row sums in another order than all others, which are alike

Linear = PackedLinear | Float16Linear | Int8Linear


@dataclass(frozen=True, eq=False)
class StepWeights:
    """The decoder's weights in the layout that a step uses."""

    prenet: list[Linear]
    attention_rnn: Linear
    query: Linear
    location: Tensor  # (A, 2, K)
    v: Tensor
    decoder_rnn: Linear
    output: Linear  # the frames and the gate's logit

    @classmethod
    def of(cls, decoder: Decoder, dtype: torch.dtype, bits: int) -> StepWeights:
        """bits: of the weights, 32, 16 or 8, see Decoder.weight_bits"""
        rnn, rnn2, attention = decoder.attention_rnn, decoder.decoder_rnn, decoder.attention_layer
        prenet_dim, hidden_dim = decoder.config.prenet_dim, decoder.config.decoder_rnn_dim

        def large(weight: Tensor, bias: Tensor) -> Linear:
            return Int8Linear(weight, bias) if bits == 8 else small(weight, bias)

        def small(weight: Tensor, bias: Tensor | None = None) -> Linear:
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
            rounded = weight.half().to(dtype) if bits == 16 else weight
            return Float16Linear(rounded, bias) if Float16Linear.supports(rounded) else PackedLinear(weight, ROWS, bias)

        inputs, context = rnn.weight_ih.split((prenet_dim, rnn.weight_ih.shape[1] - prenet_dim), 1)
        weight, bias = decoder.output_weights()
        return cls(
            prenet=[small(weight) for weight in decoder.prenet.parameters()],
            attention_rnn=large(
                sigmoids_first(torch.cat((inputs, rnn.weight_hh, context), 1)),
                sigmoids_first(rnn.bias_ih + rnn.bias_hh),
            ),
            query=small(attention.query_layer.linear_layer.weight),
            location=attention.location_layer.kernel().to(dtype),
            v=attention.v.linear_layer.weight[0].to(dtype),
            decoder_rnn=large(
                sigmoids_first(torch.cat((rnn2.weight_ih, rnn2.weight_hh), 1)),
                sigmoids_first(rnn2.bias_ih + rnn2.bias_hh),
            ),
            output=large(torch.cat((weight[:, hidden_dim:], weight[:, :hidden_dim]), 1), bias),
        )


def step_weights(decoder: Decoder, dtype: torch.dtype, bits: int) -> StepWeights:
    """Return StepWeights, packed again only after the weights or an argument have changed."""
    return packed_once(decoder, (dtype, bits), lambda: StepWeights.of(decoder, dtype, bits))


class DecoderState(NamedTuple):
    """The state that passes from step to step."""

    buffer: Tensor  # (B, ...) prenet | attention hidden | context | decoder hidden
    attention_cell: Tensor  # (B, attention_rnn_dim)
    decoder_cell: Tensor  # (B, decoder_rnn_dim)
    weights: Tensor  # (B, L) of the last step
    weights_sum: Tensor  # (B, L) over all steps
    frames: Tensor  # (B, F) of the last step


class StepOutputs(NamedTuple):
    """The outputs of S steps."""

    frames_and_gate: Tensor  # (S, B, F + 1) the last column is the gate's logit
    alignment: Tensor  # (S, B, L)


class StepInputs(NamedTuple):
    """The inputs of S steps."""

    kept: Tensor  # (S, layers, B, prenet_dim) dropout mask of the prenet, scaled
    memory: Tensor  # (B, L, E)
    keys: Tensor  # (B, L, A)
    hidden: Tensor | None  # (B, L) True for symbols without attention: beyond a text or a window


def _steps(weights: StepWeights, written: tuple[DecoderState, StepOutputs], given: StepInputs) -> None:
    """Advance the state by as many steps as the outputs have room for."""
    state, outputs = written
    ops = ops_for(state.buffer, weights.location)
    attention = ops.AttentionStep(weights.location, given.keys, weights.v, given.memory, given.hidden)
    prenet, hidden = given.kept.shape[3], state.attention_cell.shape[1]
    parts = prenet, hidden, given.memory.shape[2], state.decoder_cell.shape[1]
    prenet_out, hidden_out, context, decoder_hidden = state.buffer.split(parts, 1)
    # All views are made once: to make them at each step took a tenth of its time.
    of_attention, of_decoder = state.buffer[:, : sum(parts[:3])], state.buffer[:, prenet:]
    of_output = state.buffer[:, prenet + hidden :]
    x, frame_dim, last = state.frames, state.frames.shape[1], state.weights
    steps = zip(given.kept.unbind(), outputs.frames_and_gate.unbind(), outputs.alignment.unbind(), strict=True)
    for masks, output, new in steps:
        for mask, weight in zip(masks.unbind(), weights.prenet, strict=True):
            x = weight(x).relu_().mul_(mask)
        prenet_out.copy_(x)
        gates = weights.attention_rnn(of_attention)
        ops.lstm_cell(gates, None, state.attention_cell, state.attention_cell, hidden_out, None, 1.0)
        attention.forward(weights.query(hidden_out), last, state.weights_sum, new, state.weights_sum, context)
        gates = weights.decoder_rnn(of_decoder)
        ops.lstm_cell(gates, None, state.decoder_cell, state.decoder_cell, decoder_hidden, None, 1.0)
        output.copy_(weights.output(of_output))
        x, last = output[:, :frame_dim], new
    state.weights.copy_(last)
    state.frames.copy_(x)


class Block(NamedTuple):
    """The outputs of consecutive steps, for the utterances that were still in the batch."""

    frames: Tensor  # (B', S, F)
    alignment: Tensor  # (B', S, L)
    rows: Tensor  # (B') their numbers, in the order in which they have joined
    num_steps: Tensor  # (B') how many of the S steps belong to each utterance
    stopped: Tensor  # (B') True for those whose gate opens in these steps
    running: list[bool]  # (B') False for those that have ended: by the gate, at a limit, or before these steps


class FreeRunning:
    """Decodes a batch, from start to end with `run`, or block by block with `advance`; others may `join` meanwhile.

    The prenet's dropout is drawn from `generator`: one for the batch, or one for each utterance, whose result then does
    not depend on the others; None in that list stands for no dropout.
    """

    def __init__(
        self,
        decoder: Decoder,
        weights: StepWeights,
        memory: Memory,
        dtype: torch.dtype,
        generator: Generators,
        limits: Limits,
    ) -> None:
        config, values = decoder.config, memory.values
        self.config, self.weights, self.dtype, self.generator = config, weights, dtype, generator
        batch, length, memory_dim = values.shape
        self.frame_dim = config.n_mel_channels * config.n_frames_per_step
        dim = config.prenet_dim + config.attention_rnn_dim + memory_dim + config.decoder_rnn_dim
        self.state = DecoderState(
            buffer=values.new_zeros(batch, dim, dtype=dtype),
            attention_cell=values.new_zeros(batch, config.attention_rnn_dim, dtype=dtype),
            decoder_cell=values.new_zeros(batch, config.decoder_rnn_dim, dtype=dtype),
            weights=values.new_zeros(batch, length, dtype=at_least_float32(dtype)),
            weights_sum=values.new_zeros(batch, length, dtype=at_least_float32(dtype)),
            frames=values.new_zeros(batch, self.frame_dim, dtype=dtype),
        )
        self.has_hidden = values.is_cuda or limits.window is not None or bool(memory.padding.any())
        self.values, self.keys = values.to(dtype), memory.keys.to(dtype)
        self.limits, self.progress = limits, Progress(memory.padding, limits)
        self.num_joined = batch
        self.rows = torch.arange(batch, device=values.device)  # numbers of the utterances in the batch
        self.running = [True] * batch
        self.age = [0] * batch  # steps
        p = config.gate_threshold
        # sigmoid(gate) > p, as a bound on the logit; a threshold of 1 or more never stops
        self.opening = math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)

    def join(self, other: FreeRunning) -> list[int]:
        """Add the utterances of another batch of the same model, which has a generator for each and is not used any
        more; return their numbers in this one."""
        assert isinstance(self.generator, list)
        assert isinstance(other.generator, list)
        self.keep(self.running)
        length = max(self.keys.shape[1], other.keys.shape[1])
        for batch in (self, other):
            batch._widen(length)
        self.state = DecoderState(*map(torch.cat, zip(self.state, other.state, strict=True)))
        self.values, self.keys = torch.cat((self.values, other.values)), torch.cat((self.keys, other.keys))
        self.progress.join(other.progress)
        self.has_hidden |= other.has_hidden
        numbers = range(self.num_joined, self.num_joined + len(other.age))
        self.num_joined = numbers.stop
        self.rows = torch.cat((self.rows, torch.tensor(numbers, device=self.rows.device)))
        self.running, self.age = self.running + other.running, self.age + other.age
        self.generator = self.generator + other.generator
        return list(numbers)

    def _widen(self, length: int) -> None:
        """Pad the texts to `length` characters."""
        missing = length - self.keys.shape[1]
        if missing:
            wide = (F.pad(x, (0, missing)) for x in (self.state.weights, self.state.weights_sum))
            weights, weights_sum = wide
            self.state = self.state._replace(weights=weights, weights_sum=weights_sum)
            self.values, self.keys = (F.pad(x, (0, 0, 0, missing)) for x in (self.values, self.keys))
            self.progress.widen(length)
            self.has_hidden = True

    def keep(self, kept: list[bool]) -> None:
        """Remove the rows of the batch for which `kept` (B) is False."""
        if all(kept):
            return
        rows = torch.tensor(kept, device=self.values.device)
        self.state = DecoderState(*(tensor[rows] for tensor in self.state))
        self.values, self.keys, self.rows = self.values[rows], self.keys[rows], self.rows[rows]
        self.progress.keep(rows)
        self.running = list(itertools.compress(self.running, kept))
        self.age = list(itertools.compress(self.age, kept))
        if isinstance(self.generator, list):
            self.generator = list(itertools.compress(self.generator, kept))

    def steps(self, number: int) -> StepOutputs:
        """Run the next `number` steps."""
        batch, length = self.state.weights.shape
        outputs = StepOutputs(
            frames_and_gate=self.state.buffer.new_empty(number, batch, self.frame_dim + 1),
            alignment=self.state.weights.new_empty(number, batch, length),
        )
        given = StepInputs(
            self._kept(number, batch), self.values, self.keys, self.progress.hidden() if self.has_hidden else None
        )
        graphed(_steps, (self.state, outputs), given, owner=self.weights)
        return outputs

    def _kept(self, number: int, batch: int) -> Tensor:
        """The prenet's dropout (number, layers, batch, prenet_dim)."""
        shape, p = (number, len(self.weights.prenet), batch, self.config.prenet_dim), self.config.prenet_dropout
        return draw_factors(shape, p, self.state.buffer.device, self.generator, self.dtype, batch_dim=2)

    def advance(self) -> Block:
        """Run the next steps, at most CHECK_EVERY, of the utterances that have not ended."""
        left = [max(self.limits.max_steps - age, 0) * runs for age, runs in zip(self.age, self.running, strict=True)]
        number = min(CHECK_EVERY, max(left))
        outputs = self.steps(number)
        steps_left = torch.tensor(left, device=self.values.device).clamp(max=number)
        opens = outputs.frames_and_gate[:, :, -1] > self.opening  # (number, B)
        opens &= torch.arange(number, device=opens.device).unsqueeze(1) < steps_left
        stops = opens.any(0)
        num_steps = torch.where(stops, 1 + opens.int().argmax(0), steps_left)
        frames, alignment = outputs.frames_and_gate[:, :, :-1].transpose(0, 1), outputs.alignment.transpose(0, 1)
        ends = (stops | self.progress.add(alignment)).tolist()
        rows = self.rows
        self.age = [age + number for age in self.age]
        self.running = [n > number and not end for n, end in zip(left, ends, strict=True)]
        block = Block(frames, alignment, rows, num_steps, stops, self.running)
        if sum(self.running) <= COMPACT_BELOW * len(rows):
            self.keep(self.running)
        return block

    def run(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return frames (B, S, F), num_steps (B), alignment (B, S, L), truncated (B). Values after an utterance's
        num_steps are meaningless."""
        (batch, length), device = self.state.weights.shape, self.values.device
        num_steps = torch.zeros(batch, dtype=torch.long, device=device)
        truncated = torch.ones(batch, dtype=torch.bool, device=device)
        found = []
        while any(self.running):
            block = self.advance()
            found.append(block)
            num_steps[block.rows] += block.num_steps
            truncated[block.rows] &= ~block.stopped
        total = sum(block.frames.shape[1] for block in found)
        frames = self.state.buffer.new_zeros(batch, total, self.frame_dim)
        alignment = self.state.weights.new_zeros(batch, total, length)
        first = 0
        for block in found:
            last = first + block.frames.shape[1]
            frames[block.rows, first:last], alignment[block.rows, first:last] = block.frames, block.alignment
            first = last
        total_steps = int(num_steps.max())
        return frames[:, :total_steps], num_steps, alignment[:, :total_steps], truncated
