"""Free-running decoding: as few and as large reads of memory a step as there can be.

At batch 1 a step is bound by reading the weights, so each LSTM has one matrix for all of its inputs, and the projection
and the gate share one. All that changes from step to step lies in one buffer, prenet | attention hidden | context |
decoder hidden, of which each product takes a slice. Utterances that have stopped leave the batch. On GPUs some steps
together are one CUDA graph (common/graphs.py).
The numbers are those of the step-by-step decoder (tests/test_free_running.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.dropout import draw_kept
from common.ops.graphs import graphed
from common.ops.packed import Int8Linear, PackedLinear, packed_once
from tacotron2.step_torch import at_least_float32, ops_for
from tacotron2.teacher_forcing import by_sigmoids

if TYPE_CHECKING:
    from tacotron2.model import Decoder, Memory

CHECK_EVERY = 8  # steps between two looks at the gates; each look waits for a GPU
LEAVES = 3 / 4  # a batch in which no more than this share has not stopped goes on without the others


@dataclass(frozen=True, eq=False)
class StepWeights:
    """The decoder's weights as a step wants them."""

    prenet: list[Tensor]
    attention_rnn: PackedLinear | Int8Linear
    query: Tensor
    location: Tensor  # (A, 2, K)
    v: Tensor
    decoder_rnn: PackedLinear | Int8Linear
    output: PackedLinear | Int8Linear  # the frames and the gate's logit

    @classmethod
    def of(cls, decoder: Decoder, rows: int, dtype: torch.dtype, int8: bool) -> StepWeights:
        rnn, rnn2, attention = decoder.attention_rnn, decoder.decoder_rnn, decoder.attention_layer
        prenet_dim, hidden_dim = decoder.config.prenet_dim, decoder.config.decoder_rnn_dim
        location = attention.location_layer

        def packed(weight: Tensor, bias: Tensor) -> PackedLinear | Int8Linear:
            return Int8Linear(weight, bias) if int8 else PackedLinear(weight.to(dtype), rows, bias.to(dtype))

        inputs, context = rnn.weight_ih.split((prenet_dim, rnn.weight_ih.shape[1] - prenet_dim), 1)
        projection, gate = decoder.linear_projection.linear_layer, decoder.gate_layer.linear_layer
        weight, bias = torch.cat((projection.weight, gate.weight)), torch.cat((projection.bias, gate.bias))
        return cls(
            prenet=[weight.to(dtype) for weight in decoder.prenet.parameters()],
            attention_rnn=packed(
                by_sigmoids(torch.cat((inputs, rnn.weight_hh, context), 1)), by_sigmoids(rnn.bias_ih + rnn.bias_hh)
            ),
            query=attention.query_layer.linear_layer.weight.to(dtype),
            location=location.kernel().to(dtype),
            v=attention.v.linear_layer.weight[0].to(dtype),
            decoder_rnn=packed(
                by_sigmoids(torch.cat((rnn2.weight_ih, rnn2.weight_hh), 1)), by_sigmoids(rnn2.bias_ih + rnn2.bias_hh)
            ),
            output=packed(torch.cat((weight[:, hidden_dim:], weight[:, :hidden_dim]), 1), bias),
        )


def step_weights(decoder: Decoder, rows: int, dtype: torch.dtype, int8: bool) -> StepWeights:
    rows = rows if decoder.attention_rnn.weight_hh.device.type == "cpu" else 1  # only there it makes a difference
    return packed_once(decoder, (rows, dtype, int8), lambda: StepWeights.of(decoder, rows, dtype, int8))


def _steps(
    weights: StepWeights, buffer: Tensor, cells: Tensor, cells_2: Tensor, last: Tensor, total: Tensor, frames: Tensor,
    outputs: Tensor, alignment: Tensor, kept: Tensor, memory: Tensor, keys: Tensor, padding: Tensor | None,
) -> None:  # fmt: skip
    """The next steps: writes frames and the gate's logit, outputs (S, B, n_mels * r + 1), and alignment (S, B, L);
    kept (S, layers, B, prenet_dim) is the prenet's dropout, scaled. The rest is the state before and after."""
    ops = ops_for(buffer, weights.location)
    attention = ops.AttentionStep(weights.location, keys, weights.v, memory, padding)
    prenet, hidden = weights.prenet[0].shape[0], cells.shape[1]
    parts = prenet, hidden, memory.shape[2], cells_2.shape[1]
    prenet_out, hidden_out, context, decoder_hidden = buffer.split(parts, 1)
    x, frame_dim = frames, frames.shape[1]
    for t in range(len(outputs)):
        for layer, weight in enumerate(weights.prenet):
            x = F.linear(x, weight).relu_().mul_(kept[t, layer])
        prenet_out.copy_(x)
        gates = weights.attention_rnn(buffer[:, : sum(parts[:3])])
        ops.lstm_cell(gates, None, cells, cells, hidden_out, None, 1.0)
        query = F.linear(hidden_out, weights.query)
        attention.forward(query, alignment[t - 1] if t else last, total, alignment[t], total, context)
        gates = weights.decoder_rnn(buffer[:, prenet:])
        ops.lstm_cell(gates, None, cells_2, cells_2, decoder_hidden, None, 1.0)
        outputs[t] = weights.output(buffer[:, prenet + hidden :])
        x = outputs[t, :, :frame_dim]
    last.copy_(alignment[-1])
    frames.copy_(x)


class FreeRunning:
    """Decodes one batch; `run` is the whole of it."""

    def __init__(self, decoder: Decoder, weights: StepWeights, memory: Memory, dtype: torch.dtype) -> None:
        self.config, self.weights, self.dtype = decoder.config, weights, dtype
        config, values = decoder.config, memory.values
        batch, length, memory_dim = values.shape
        self.frame_dim = config.n_mel_channels * config.n_frames_per_step
        dim = config.prenet_dim + config.attention_rnn_dim + memory_dim + config.decoder_rnn_dim
        self.state = [  # as _steps takes it
            values.new_zeros(batch, dim, dtype=dtype),
            values.new_zeros(batch, config.attention_rnn_dim, dtype=dtype),
            values.new_zeros(batch, config.decoder_rnn_dim, dtype=dtype),
            values.new_zeros(batch, length, dtype=at_least_float32(dtype)),
            values.new_zeros(batch, length, dtype=at_least_float32(dtype)),
            values.new_zeros(batch, self.frame_dim, dtype=dtype),
        ]
        has_padding = values.is_cuda or bool(memory.padding.any())
        self.memory = [values.to(dtype), memory.keys.to(dtype), memory.padding if has_padding else None]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only."""
        self.state = [tensor[rows] for tensor in self.state]
        self.memory = [None if tensor is None else tensor[rows] for tensor in self.memory]

    def steps(self, number: int) -> tuple[Tensor, Tensor]:
        """The next steps: frames and the gate's logit (number, B, n_mels * r + 1), alignment (number, B, L)."""
        buffer, total = self.state[0], self.state[4]
        outputs = buffer.new_empty(number, len(buffer), self.frame_dim + 1)
        alignment = total.new_empty(number, *total.shape)
        p, shape = self.config.prenet_dropout, (number, len(self.weights.prenet), len(buffer), self.config.prenet_dim)
        kept = draw_kept(shape, p, buffer.device).to(self.dtype) / (1 - p)
        arguments = [*self.state, outputs, alignment], [kept, *self.memory]
        graphed(_steps, *arguments, owner=self.weights)
        return outputs, alignment

    def run(self, max_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frames (B, S, n_mels * r), num_steps (B), alignment (B, S, L), truncated (B). What comes after an utterance's
        num_steps is not its own."""
        buffer, total = self.state[0], self.state[4]
        batch, device, threshold = len(buffer), buffer.device, self.config.gate_threshold
        # sigmoid(gate) > threshold; beyond 1 nothing stops it
        logit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
        frames = buffer.new_zeros(batch, max_steps, self.frame_dim)
        alignment = total.new_zeros(batch, max_steps, total.shape[1])
        num_steps = torch.full((batch,), max_steps, device=device)
        rows = torch.arange(batch, device=device)  # those still in the batch
        goes_on = torch.ones(batch, dtype=torch.bool, device=device)  # those of `rows` that have not stopped
        truncated = goes_on.clone()
        for first in range(0, max_steps, CHECK_EVERY):
            number = min(CHECK_EVERY, max_steps - first)
            outputs, weights = self.steps(number)
            frames[rows, first : first + number] = outputs[:, :, :-1].transpose(0, 1)
            alignment[rows, first : first + number] = weights.transpose(0, 1)
            opens = outputs[:, :, -1] > logit  # (number, B)
            stops = opens.any(0) & goes_on
            num_steps[rows] = torch.where(stops, first + 1 + opens.int().argmax(0), num_steps[rows])
            goes_on &= ~stops
            truncated[rows] = goes_on
            left = int(goes_on.sum())
            if not left:
                break
            if left <= LEAVES * len(rows):
                self.keep(goes_on)
                rows, goes_on = rows[goes_on], goes_on[goes_on]
        total_steps = int(num_steps.max())
        return frames[:, :total_steps], num_steps, alignment[:, :total_steps], truncated
