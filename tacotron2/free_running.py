"""Free-running decoding: as few and as large reads of memory a step as there can be.

At batch 1 a step is bound by reading the weights, so each LSTM has one matrix for all of its inputs, and the projection
and the gate share one. All that changes from step to step lies in one buffer, prenet | attention hidden | context |
decoder hidden, of which each product takes a slice. Utterances that have stopped leave the batch.
The numbers are those of the step-by-step decoder (tests/test_free_running.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.dropout import draw_kept
from common.packed import Int8Linear, PackedLinear, packed_once
from tacotron2.loops import Location, at_least_float32, by_sigmoids, lstm_cell

if TYPE_CHECKING:
    from tacotron2.model import Decoder, Memory

CHECK_EVERY = 8  # steps between two looks at the gates; each look makes a GPU wait for the host


class StepWeights(NamedTuple):
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
    return packed_once(decoder, (rows, dtype, int8), lambda: StepWeights.of(decoder, rows, dtype, int8))


class FreeRunning:
    """Decodes one batch; `run` is the whole of it."""

    def __init__(self, decoder: Decoder, weights: StepWeights, memory: Memory, dtype: torch.dtype) -> None:
        self.config, self.weights, self.dtype = decoder.config, weights, dtype
        config = self.config
        self.parts = config.prenet_dim, config.attention_rnn_dim, memory.values.shape[2], config.decoder_rnn_dim
        self.frame_dim = config.n_mel_channels * config.n_frames_per_step
        batch = len(memory.values)
        self.buffer = memory.values.new_zeros(batch, sum(self.parts), dtype=dtype)
        self.cells = [self.buffer.new_zeros(batch, dim) for dim in (self.parts[1], self.parts[3])]
        self.memory = memory._replace(values=memory.values.to(dtype), keys=memory.keys.to(dtype))
        self.total = torch.zeros_like(memory.padding, dtype=at_least_float32(dtype))
        self.last = torch.zeros_like(self.total)  # attention weights
        self.frames = self.buffer.new_zeros(batch, self.frame_dim)
        self._set_up()

    def _set_up(self) -> None:
        """What follows from the rows that are left in the batch."""
        self.location = Location(self.weights.location, self.memory.keys, self.weights.v)
        self.has_padding = bool(self.memory.padding.any())
        prenet, hidden, context, _ = self.parts
        self.prenet_out, self.hidden, self.context, self.decoder_hidden = self.buffer.split(self.parts, 1)
        self.attention_in = self.buffer[:, : prenet + hidden + context]
        self.decoder_in = self.buffer[:, prenet:]
        self.output_in = self.buffer[:, prenet + hidden :]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only."""
        self.buffer, self.total, self.last, self.frames = (
            tensor[rows] for tensor in (self.buffer, self.total, self.last, self.frames)
        )
        self.cells = [cell[rows] for cell in self.cells]
        self.memory = type(self.memory)(*(tensor[rows] for tensor in self.memory))
        self._set_up()

    def steps(self, number: int) -> tuple[Tensor, Tensor]:
        """The next steps: frames and the gate's logit (number, B, n_mels * r + 1), alignment (number, B, L)."""
        batch, length = self.total.shape
        outputs = self.buffer.new_empty(number, batch, self.frame_dim + 1)
        alignment = self.total.new_empty(number, batch, length)
        p = self.config.prenet_dropout
        layers = len(self.weights.prenet)
        kept = draw_kept((number, layers, batch, self.parts[0]), p, self.buffer.device).to(self.dtype) / (1 - p)
        for t in range(number):
            x = self.frames
            for layer, weight in enumerate(self.weights.prenet):
                x = F.linear(x, weight).relu_().mul_(kept[t, layer])
            self.prenet_out.copy_(x)
            lstm_cell(self.weights.attention_rnn(self.attention_in), self.cells[0], self.cells[0], self.hidden)
            energies = self.location.energies(F.linear(self.hidden, self.weights.query), self.last, self.total)
            energies = energies.to(self.total.dtype)
            if self.has_padding:
                energies.masked_fill_(self.memory.padding, float("-inf"))
            self.last = torch.softmax(energies, 1, out=alignment[t])
            self.total += self.last
            self.context.copy_(torch.bmm(self.last.to(self.dtype).unsqueeze(1), self.memory.values).squeeze(1))
            lstm_cell(self.weights.decoder_rnn(self.decoder_in), self.cells[1], self.cells[1], self.decoder_hidden)
            outputs[t] = self.weights.output(self.output_in)
            self.frames = outputs[t, :, : self.frame_dim]
        return outputs, alignment

    def run(self, max_steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frames (B, S, n_mels * r), num_steps (B), alignment (B, S, L), truncated (B)"""
        batch, length = self.total.shape
        device, threshold = self.buffer.device, self.config.gate_threshold
        # sigmoid(gate) > threshold; beyond 1 nothing stops it
        logit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
        frames = self.buffer.new_zeros(batch, max_steps, self.frame_dim)
        alignment = self.total.new_zeros(batch, max_steps, length)
        num_steps = torch.full((batch,), max_steps, device=device)
        truncated = torch.ones(batch, dtype=torch.bool, device=device)
        rows = torch.arange(batch, device=device)  # those that have not stopped
        for first in range(0, max_steps, CHECK_EVERY):
            number = min(CHECK_EVERY, max_steps - first)
            outputs, weights = self.steps(number)
            frames[rows, first : first + number] = outputs[:, :, :-1].transpose(0, 1)
            alignment[rows, first : first + number] = weights.transpose(0, 1)
            stops = outputs[:, :, -1] > logit  # (number, B)
            has_stopped = stops.any(0)
            num_steps[rows[has_stopped]] = first + 1 + stops.int().argmax(0)[has_stopped]
            truncated[rows[has_stopped]] = False
            if bool(has_stopped.any()):
                rows = rows[~has_stopped]
                if not len(rows):
                    break
                self.keep(~has_stopped)
        total = int(num_steps.max())
        return frames[:, :total], num_steps, alignment[:, :total], truncated
