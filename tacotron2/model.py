"""Tacotron 2: characters to mel spectrogram (Shen et al., 2018, arXiv:1712.05884).

Shapes: B batch, L characters, T mel frames, r frames per decoder step, S = T / r decoder steps, E memory_dim: that of
the encoder and, with several speakers, speaker_dim. Module names follow the reference implementation, so that its
weights load by name.

Random numbers come from the `generator` argument of a method, or if it is None from PyTorch's global generator.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from common.errors import UserError
from common.ops.dropout import Generators, TanhDropout, draw_kept, dropout
from common.ops.padding import lengths_to_mask, pad_last, pad_to_multiple
from common.ops.precision import compute_dtype
from common.schema import Count, Options, Positive, Probability
from tacotron2.free_running import CHARACTERS, FreeRunning, step_weights
from tacotron2.postfilter import Postfilter
from tacotron2.progress import CHECK_EVERY, Limits, Progress
from tacotron2.speaker_names import check_names, wrong_speaker
from tacotron2.speakers import with_speakers
from tacotron2.step_torch import at_least_float32
from tacotron2.teacher_forcing import (
    CHUNK,
    CLIPS,
    AttentionLoop,
    AttentionWeights,
    LSTMLoop,
    bidirectional,
    sigmoids_first,
)

Gain = Literal["linear", "relu", "sigmoid", "tanh"]  # the nonlinearity that follows a layer


@dataclass(frozen=True)
class Tacotron2Config(Options):
    """The reference's constructor arguments under their own names, dropout rates that are constants there, and, from
    p_frame_dropout on, six options that the reference does not have. conf/model/tacotron2.yaml explains all."""

    section: ClassVar[str] = "model"

    n_mel_channels: Count = 80
    n_symbols: Count = 148  # not in conf/: data.characters determines it
    symbols_embedding_dim: Count = 512
    encoder_kernel_size: Count = 5
    encoder_n_convolutions: Count = 3
    encoder_embedding_dim: Count = 512
    attention_rnn_dim: Count = 1024
    attention_dim: Count = 128
    attention_location_n_filters: Count = 32
    attention_location_kernel_size: Count = 31
    n_frames_per_step: Count = 1
    decoder_rnn_dim: Count = 1024
    prenet_dim: Count = 256
    max_decoder_steps: Count = 2000
    gate_threshold: float = 0.5
    postnet_embedding_dim: Count = 512
    postnet_kernel_size: Count = 5
    postnet_n_convolutions: Count = 5
    p_encoder_dropout: Probability = 0.5
    prenet_dropout: Probability = 0.5
    dropout_in_synthesis: bool = True
    p_attention_dropout: Probability = 0.1
    p_decoder_dropout: Probability = 0.1
    p_postnet_dropout: Probability = 0.5
    p_frame_dropout: Probability = 0.0
    p_own_frames: Probability = 0.0
    mel_mean: float = 0.0
    mel_std: Positive = 1.0
    speakers: list[str] = field(default_factory=list)  # names by id; not in conf/: the corpus determines them
    speaker_dim: Count = 64

    @property
    def memory_dim(self) -> int:
        """Channels of what the attention reads: the encoder's output and, if there are speakers, an embedding."""
        return self.encoder_embedding_dim + (self.speaker_dim if self.speakers else 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("encoder_kernel_size", "attention_location_kernel_size", "postnet_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise UserError(f"model.{name}={getattr(self, name)} must be odd, to keep the length")
        if self.encoder_embedding_dim % 2:
            raise UserError(
                f"model.encoder_embedding_dim={self.encoder_embedding_dim} must be even: half for each direction "
                "of the encoder's LSTM"
            )
        check_names(self.speakers)


class Tacotron2Output(NamedTuple):
    """The result of teacher forcing. Frames beyond the length of an utterance are 0."""

    mel: Tensor  # (B, n_mels, T) before the postnet
    mel_postnet: Tensor  # (B, n_mels, T)
    gate: Tensor  # (B, T) logits of "this is the last frame"
    alignment: Tensor  # (B, T, L) attention weights


class Tacotron2Speech(NamedTuple):
    """The result of free running. Frames beyond the length of an utterance are 0."""

    mel_postnet: Tensor  # (B, n_mels, T) after the postfilter
    mel_lengths: Tensor  # (B) frames, the last one included
    alignment: Tensor  # (B, T, L)
    truncated: Tensor  # (B) True if the gate did not open within the limits


class LinearNorm(nn.Module):
    """A linear layer with Xavier initialization for the nonlinearity that follows it."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True, gain: Gain = "linear") -> None:
        super().__init__()
        self.linear_layer = nn.Linear(in_dim, out_dim, bias=bias)
        nn.init.xavier_uniform_(self.linear_layer.weight, gain=nn.init.calculate_gain(gain))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear_layer(x)
        return x


class ConvNorm(nn.Module):
    """A convolution that keeps the length, with Xavier initialization for the nonlinearity that follows it."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, bias: bool = True, gain: Gain = "linear") -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2, bias=bias)
        nn.init.xavier_uniform_(self.conv.weight, gain=nn.init.calculate_gain(gain))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x


def conv_batch_norm(in_dim: int, out_dim: int, kernel_size: int, gain: Gain) -> nn.Sequential:
    return nn.Sequential(ConvNorm(in_dim, out_dim, kernel_size, gain=gain), nn.BatchNorm1d(out_dim))


class Encoder(nn.Module):
    """Convolutions and a bidirectional LSTM over the characters (section 2.2).

    The convolutions see zeros beyond the end of a text, as if the text were alone: in eval mode, padding does not
    change the result.
    """

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.dropout = config.p_encoder_dropout
        dim = config.encoder_embedding_dim
        dims = [config.symbols_embedding_dim, *[dim] * config.encoder_n_convolutions]
        self.convolutions = nn.ModuleList(
            conv_batch_norm(a, b, config.encoder_kernel_size, "relu") for a, b in itertools.pairwise(dims)
        )
        self.lstm = nn.LSTM(dims[-1], dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor, generator: Generator | None = None) -> Tensor:
        """Embedded text (B, L, symbols_embedding_dim), lengths (B) -> (B, L, encoder_embedding_dim), 0 beyond the
        lengths."""
        mask = lengths_to_mask(lengths, x.shape[1]).unsqueeze(1)
        x = x.transpose(1, 2) * mask  # (B, dim, L)
        for convolution in self.convolutions:
            x = dropout(F.relu(convolution(x)), self.dropout if self.training else 0.0, generator) * mask
        x = x.transpose(1, 2)
        # `bidirectional` is faster in training, and on a GPU, where packing would wait for the lengths. On a CPU
        # without a backward pass, PyTorch's loop is faster.
        if x.is_cuda or torch.is_grad_enabled():
            return bidirectional(self.lstm, x, lengths)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        memory, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return memory


class Prenet(nn.Module):
    """Two layers without biases. Their dropout is always on (section 2.2)."""

    def __init__(self, in_dim: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        # The reference initializes them with the gain of a linear layer.
        self.layers = nn.ModuleList([LinearNorm(in_dim, dim, bias=False), LinearNorm(dim, dim, bias=False)])

    def forward(self, x: Tensor, generator: Generators = None) -> Tensor:
        """(..., in_dim) -> (..., dim)"""
        for layer in self.layers:
            x = dropout(F.relu(layer(x)), self.dropout, generator)
        return x


class LocationLayer(nn.Module):
    """Features of the last and the summed attention weights (Chorowski et al., 2015, eq. 8)."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        filters, kernel_size = config.attention_location_n_filters, config.attention_location_kernel_size
        self.location_conv = ConvNorm(2, filters, kernel_size, bias=False)
        self.location_dense = LinearNorm(filters, config.attention_dim, bias=False, gain="tanh")

    def forward(self, weights: Tensor) -> Tensor:
        """(B, 2, L) -> (B, L, attention_dim)"""
        x: Tensor = self.location_dense(self.location_conv(weights).transpose(1, 2))
        return x

    def kernel(self) -> Tensor:
        """Both layers folded into one convolution (attention_dim, 2, kernel_size)"""
        return torch.einsum("af,fck->ack", self.location_dense.linear_layer.weight, self.location_conv.conv.weight)


class Memory(NamedTuple):
    """The encoded text as the attention reads it, computed once per utterance."""

    values: Tensor  # (B, L, E)
    keys: Tensor  # (B, L, attention_dim)
    padding: Tensor  # (B, L) True beyond the end of a text

    def padded(self, characters: int, clips: int = 1) -> Memory:
        """Pad L to a multiple of `characters` and B to a multiple of `clips`. Added clips count as text, not padding:
        a softmax over padding alone would be NaN."""
        padding = pad_to_multiple(self.padding, 1, characters, value=True)
        values, keys = pad_to_multiple(self.values, 1, characters), pad_to_multiple(self.keys, 1, characters)
        return Memory(*(pad_to_multiple(x, 0, clips) for x in (values, keys, padding)))


@dataclass
class AttentionState:
    """The state that attention_rnn and the attention pass from one step to the next."""

    hidden: Tensor  # (B, attention_rnn_dim) after dropout
    cell: Tensor  # (B, attention_rnn_dim)
    weights: Tensor  # (B, L)
    weights_sum: Tensor  # (B, L) over all steps so far
    context: Tensor  # (B, E)


class Attention(nn.Module):
    """Location-sensitive attention: energy = v . tanh(query + keys + location) (Chorowski et al., 2015, eq. 9)."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        dim = config.attention_dim
        self.query_layer = LinearNorm(config.attention_rnn_dim, dim, bias=False, gain="tanh")
        self.memory_layer = LinearNorm(config.memory_dim, dim, bias=False, gain="tanh")
        self.v = LinearNorm(dim, 1, bias=False)
        self.location_layer = LocationLayer(config)

    def prepare(self, memory: Tensor, lengths: Tensor) -> Memory:
        """memory (B, L, E), lengths (B) -> Memory"""
        return Memory(memory, self.memory_layer(memory), ~lengths_to_mask(lengths, memory.shape[1]))

    def forward(self, query: Tensor, state: AttentionState, memory: Memory) -> tuple[Tensor, Tensor]:
        """query (B, attention_rnn_dim) -> context (B, E), weights (B, L)"""
        location = self.location_layer(torch.stack((state.weights, state.weights_sum), dim=1))
        energy = self.v(torch.tanh(self.query_layer(query).unsqueeze(1) + memory.keys + location)).squeeze(2)
        energy = energy.to(at_least_float32(energy.dtype)).masked_fill(memory.padding, float("-inf"))
        weights = torch.softmax(energy, dim=1)
        context = torch.bmm(weights.to(memory.values.dtype).unsqueeze(1), memory.values).squeeze(1)
        return context, weights


class Decoder(nn.Module):
    """The autoregressive decoder (section 2.2). Its recurrent inputs are the hidden states after dropout.

    The step-by-step methods are the specification; teacher_forcing.py and free_running.py compute the same, faster.
    """

    fused = True  # False: step by step
    weight_bits = 32  # in free running on a CPU: 16 rounds the weights to float16, 8 the large ones to integers

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.config = config
        step_dim = config.n_mel_channels * config.n_frames_per_step
        memory_dim, rnn_dim = config.memory_dim, config.decoder_rnn_dim
        self.prenet = Prenet(step_dim, config.prenet_dim, config.prenet_dropout)
        self.attention_rnn = nn.LSTMCell(config.prenet_dim + memory_dim, config.attention_rnn_dim)
        self.attention_layer = Attention(config)
        self.decoder_rnn = nn.LSTMCell(config.attention_rnn_dim + memory_dim, rnn_dim)
        self.linear_projection = LinearNorm(rnn_dim + memory_dim, step_dim)
        self.gate_layer = LinearNorm(rnn_dim + memory_dim, 1, gain="sigmoid")

    def initial_attention(self, memory: Tensor) -> AttentionState:
        batch, length, memory_dim = memory.shape
        zeros = memory.new_zeros
        return AttentionState(
            hidden=zeros(batch, self.config.attention_rnn_dim),
            cell=zeros(batch, self.config.attention_rnn_dim),
            weights=zeros(batch, length, dtype=at_least_float32(memory.dtype)),
            weights_sum=zeros(batch, length, dtype=at_least_float32(memory.dtype)),
            context=zeros(batch, memory_dim),
        )

    def attention_step(
        self, prenet_out: Tensor, state: AttentionState, memory: Memory, kept: Tensor | None = None
    ) -> AttentionState:
        """One step of attention_rnn and the attention, for prenet_out (B, prenet_dim)."""
        hidden, cell = self.attention_rnn(torch.cat((prenet_out, state.context), 1), (state.hidden, state.cell))
        if kept is not None:
            hidden = hidden * kept / (1 - self.config.p_attention_dropout)
        context, weights = self.attention_layer(hidden, state, memory)
        return AttentionState(hidden, cell, weights, state.weights_sum + weights, context)

    def decoder_step(
        self, state: AttentionState, rnn: tuple[Tensor, Tensor], kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of decoder_rnn: its next (hidden, cell)."""
        hidden, cell = self.decoder_rnn(torch.cat((state.hidden, state.context), 1), rnn)
        return hidden if kept is None else hidden * kept / (1 - self.config.p_decoder_dropout), cell

    def _kept(self, steps: int, memory: Tensor, generator: Generator | None) -> tuple[Tensor | None, Tensor | None]:
        """Dropout masks for the hidden states of attention_rnn and decoder_rnn, each (S, B, dim) or None."""

        def draw(p: float, dim: int) -> Tensor | None:
            if not self.training or p == 0:
                return None
            return draw_kept((steps, memory.shape[0], dim), p, memory.device, generator)

        config = self.config
        kept = draw(config.p_attention_dropout, config.attention_rnn_dim)
        return kept, draw(config.p_decoder_dropout, config.decoder_rnn_dim)

    def forward(
        self, memory: Tensor, lengths: Tensor, mel: Tensor, generator: Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Teacher forcing: memory (B, L, E), lengths (B), mel (B, n_mels, S * r) -> mel (B, n_mels, S * r), gate (B,
        S), alignment (B, S, L)."""
        batch, _, num_frames = mel.shape
        steps = mel.transpose(1, 2).reshape(batch, num_frames // self.config.n_frames_per_step, -1)
        inputs = F.pad(steps[:, :-1], (0, 0, 1, 0)).transpose(0, 1)  # (S, B, n_mels * r), the first frame is zero
        decode = self._all_steps if self.fused else self._step_by_step
        prepared = self.attention_layer.prepare(memory, lengths)
        seen = self.prenet(inputs, generator)
        if self.training and (p := self.config.p_frame_dropout):
            seen = seen * draw_kept((len(seen), batch, 1), p, seen.device, generator)  # unscaled: synthesis drops none
        hidden, context, alignment = decode(seen, prepared, self._kept(len(inputs), memory, generator))
        mel_out, gate = self._output(hidden, context)
        mel_out = mel_out.transpose(0, 1).reshape(batch, num_frames, -1).transpose(1, 2)
        return mel_out, gate.squeeze(2).transpose(0, 1), alignment.transpose(0, 1)

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the projection and the gate as one layer; the gate is its last row."""
        projection, gate = self.linear_projection.linear_layer, self.gate_layer.linear_layer
        return torch.cat((projection.weight, gate.weight)), torch.cat((projection.bias, gate.bias))

    def _output(self, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frames and the gate's logit. Concatenating hidden and context would copy both."""
        weight, bias = self.output_weights()
        of_hidden, of_context = weight.split((hidden.shape[2], context.shape[2]), 1)
        output = F.linear(hidden, of_hidden, bias) + F.linear(context, of_context)
        return output[..., :-1], output[..., -1:]

    def _step_by_step(
        self, inputs: Tensor, memory: Memory, kept: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The decoder as in the paper, the specification of _all_steps: prenet's output (S, B, prenet_dim) -> hidden
        (S, B, decoder_rnn_dim), context (S, B, E), alignment (S, B, L)."""
        state = self.initial_attention(memory.values)
        rnn = (memory.values.new_zeros(inputs.shape[1], self.config.decoder_rnn_dim),) * 2
        steps = []
        for t, prenet_out in enumerate(inputs):
            state = self.attention_step(prenet_out, state, memory, None if kept[0] is None else kept[0][t])
            rnn = self.decoder_step(state, rnn, None if kept[1] is None else kept[1][t])
            steps.append((rnn[0], state.context, state.weights))
        hidden, context, alignment = (torch.stack(tensors) for tensors in zip(*steps, strict=True))
        return hidden, context, alignment

    def _all_steps(
        self, inputs: Tensor, memory: Memory, kept: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same as _step_by_step, in two loops with large matrix products around them (teacher_forcing.py)."""
        device, dtype = inputs.device.type, compute_dtype(inputs)
        rnn, rnn2, attention, config = self.attention_rnn, self.decoder_rnn, self.attention_layer, self.config
        (steps, batch), length = inputs.shape[:2], memory.values.shape[1]
        chunk, clips = CHUNK.get(device, 1), CLIPS.get(device, 1)

        def padded(x: Tensor) -> Tensor:
            return pad_to_multiple(pad_to_multiple(x, 0, chunk), 1, clips)

        def cast(x: Tensor) -> Tensor:
            return x.to(dtype)

        inputs, memory = padded(inputs), memory.padded(chunk, clips)
        masks = [None if mask is None else padded(mask) for mask in kept]
        with torch.autocast(device, enabled=False):
            w_ih, w_hh, bias = map(sigmoids_first, (rnn.weight_ih, rnn.weight_hh, rnn.bias_ih + rnn.bias_hh))
            of_prenet, of_context = w_ih[:, : config.prenet_dim], w_ih[:, config.prenet_dim :]
            weights = AttentionWeights(
                w_hc=cast(torch.cat((w_hh, of_context), 1)),
                memory=cast(memory.values),
                keys=cast(memory.keys),
                padding=memory.padding,
                w_query=cast(attention.query_layer.linear_layer.weight),
                w_location=cast(attention.location_layer.kernel()),
                v=cast(attention.v.linear_layer.weight[0]),
                kept=masks[0],
            )
            scales = 1 / (1 - config.p_attention_dropout), 1 / (1 - config.p_decoder_dropout)
            states, alignment = AttentionLoop.apply(cast(inputs), cast(of_prenet), cast(bias), scales[0], *weights)
            lstm = (cast(sigmoids_first(x)) for x in (rnn2.weight_ih, rnn2.weight_hh, rnn2.bias_ih + rnn2.bias_hh))
            hidden = LSTMLoop.apply(states, *lstm, masks[1], scales[1])
        context = states[:steps, :batch, config.attention_rnn_dim :]
        return hidden[:steps, :batch], context, alignment[:steps, :batch, :length]

    def infer(
        self, memory: Tensor, lengths: Tensor, limits: Limits, generator: Generators = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Free running: memory (B, L, E), lengths (B) -> mel (B, n_mels, S * r), num_steps (B), alignment (B, S, L),
        truncated (B). The step at which the gate opens is part of the utterance."""
        if self.fused:
            loop = self.free_running(memory, lengths, limits, generator)
            with torch.autocast(memory.device.type, enabled=False):
                frames, num_steps, alignment, truncated = loop.run()
            alignment = alignment[:, :, : memory.shape[1]]
        else:
            prepared = self.attention_layer.prepare(memory, lengths)
            frames, num_steps, alignment, truncated = self._infer_step_by_step(prepared, limits, generator)
        return self.mel(frames), num_steps, alignment, truncated

    def free_running(self, memory: Tensor, lengths: Tensor, limits: Limits, generator: Generators) -> FreeRunning:
        """The fast decoder for memory (B, L, E) and lengths (B), before its first step."""
        device, dtype = memory.device.type, compute_dtype(memory)
        prepared = self.attention_layer.prepare(memory, lengths)
        if device == "cpu":
            # Copies: on some CPUs the bits of a product depend on where in memory its inputs begin.
            alone = [
                self.attention_layer.memory_layer(row[:n].clone())
                for row, n in zip(memory, lengths.tolist(), strict=True)
            ]
            prepared = prepared._replace(keys=pad_sequence(alone, batch_first=True))
        with torch.autocast(device, enabled=False):
            weights = step_weights(self, dtype, self.weight_bits)
            return FreeRunning(self, weights, prepared.padded(CHARACTERS.get(device, 1)), dtype, generator, limits)

    def mel(self, frames: Tensor) -> Tensor:
        """(B, S, n_mels * r) -> (B, n_mels, S * r)"""
        batch, steps, _ = frames.shape
        return frames.reshape(batch, steps * self.config.n_frames_per_step, -1).transpose(1, 2)

    def _infer_step_by_step(
        self, memory: Memory, limits: Limits, generator: Generators
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The decoder as in the paper, the specification of FreeRunning.run."""
        batch, config = len(memory.values), self.config
        state = self.initial_attention(memory.values)
        rnn = (memory.values.new_zeros(batch, config.decoder_rnn_dim),) * 2
        frames = memory.values.new_zeros(batch, config.n_mel_channels * config.n_frames_per_step)
        num_steps = torch.full((batch,), limits.max_steps, device=frames.device)
        truncated = torch.ones(batch, dtype=torch.bool, device=frames.device)
        running, progress, steps = truncated, Progress(memory.padding, limits), []
        for step in range(1, limits.max_steps + 1):
            if step % CHECK_EVERY == 1:
                memory = memory._replace(padding=progress.hidden())
            state = self.attention_step(self.prenet(frames, generator), state, memory)
            rnn = self.decoder_step(state, rnn)
            output = torch.cat((rnn[0], state.context), 1)
            frames = self.linear_projection(output)
            steps.append((frames, state.weights))
            stops = (torch.sigmoid(self.gate_layer(output)).squeeze(1) > config.gate_threshold) & running
            truncated, running = truncated & ~stops, running & ~stops
            ends = stops
            if step % CHECK_EVERY == 0:
                given_up = progress.add(torch.stack([weights for _, weights in steps[-CHECK_EVERY:]], 1)) & running
                ends, running = stops | given_up, running & ~given_up
            num_steps = torch.where(ends, step, num_steps)
            if not running.any():
                break
        all_frames, alignment = (torch.stack(tensors, 1) for tensors in zip(*steps, strict=True))
        return all_frames, num_steps, alignment, truncated


class Postnet(nn.Module):
    """Convolutions, five by default, that predict a residual to add to the mel (section 2.2)."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.dropout = config.p_postnet_dropout
        inner = [config.postnet_embedding_dim] * (config.postnet_n_convolutions - 1)
        dims = [config.n_mel_channels, *inner, config.n_mel_channels]
        gains: list[Gain] = ["tanh" for _ in inner]
        self.convolutions = nn.ModuleList(
            conv_batch_norm(a, b, config.postnet_kernel_size, gain)
            for (a, b), gain in zip(itertools.pairwise(dims), [*gains, "linear"], strict=True)
        )

    def forward(self, x: Tensor, mask: Tensor, generator: Generator | None = None) -> Tensor:
        """x (B, n_mels, T), mask (B, 1, T) -> residual (B, n_mels, T)"""
        p = self.dropout if self.training else 0.0
        *convolutions, last = self.convolutions
        for convolution in convolutions:
            x = convolution(x)
            kept = (draw_kept(x.shape, p, x.device, generator) & mask) if p else mask
            x = TanhDropout.apply(x, kept, 1 / (1 - p)) if self.training else torch.tanh(x) * mask
        return dropout(last(x), p, generator) * mask


class Tacotron2(nn.Module):
    """The whole model."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.n_symbols, config.symbols_embedding_dim)
        bound = (6 / (config.n_symbols + config.symbols_embedding_dim)) ** 0.5
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.postnet = Postnet(config)
        self.postfilter = Postfilter(config.n_mel_channels)
        # Last: a model without speakers draws the same weights as before there were any.
        if config.speakers:
            self.speaker_embedding = nn.Embedding(len(config.speakers), config.speaker_dim)

    def encode(
        self, text: Tensor, text_lengths: Tensor, speaker: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """text (B, L), text_lengths (B), speaker (B) ids if the model has speakers -> memory (B, L, E)"""
        memory: Tensor = self.encoder(self.embedding(text), text_lengths, generator)
        if (speaker is None) == bool(self.config.speakers):
            raise UserError(wrong_speaker(self.config.speakers))
        if speaker is None:
            return memory
        return with_speakers(memory, text_lengths, self.speaker_embedding(speaker))

    def log_mel(self, normalized: Tensor) -> Tensor:
        """Convert a normalized mel, as in the decoder and the postnet, to a log-mel."""
        return normalized * self.config.mel_std + self.config.mel_mean

    def forward(
        self,
        text: Tensor,
        text_lengths: Tensor,
        mel: Tensor,
        mel_lengths: Tensor,
        speaker: Tensor | None = None,
        p_own_frames: float | None = None,
        generator: Generator | None = None,
    ) -> Tacotron2Output:
        """Teacher forcing: text (B, L) ids, text_lengths (B), mel (B, n_mels, T), mel_lengths (B) frames, speaker (B)
        ids: places in config.speakers, if it has any, else None.

        With probability p_own_frames a step sees the decoder's own previous frame instead of the given one; None means
        the config's value in training, and 0 otherwise. T need not be a multiple of n_frames_per_step: the last step is
        padded with zeros, and the outputs are cut to T frames.
        """
        if p_own_frames is None:
            p_own_frames = self.config.p_own_frames if self.training else 0.0
        r, num_frames = self.config.n_frames_per_step, mel.shape[2]
        mask = lengths_to_mask(mel_lengths, num_frames)
        inside = mask.unsqueeze(1)
        normalized = (mel - self.config.mel_mean) / self.config.mel_std
        seen = F.pad(normalized * inside, (0, -num_frames % r))
        memory = self.encode(text, text_lengths, speaker, generator)
        if p_own_frames:
            seen = self._with_own_frames(memory, text_lengths, seen, p_own_frames, generator)
        mel_out, gate, alignment = self.decoder(memory, text_lengths, seen, generator)
        mel_out = mel_out[:, :, :num_frames] * inside
        return Tacotron2Output(
            mel=self.log_mel(mel_out) * inside,
            mel_postnet=self.log_mel(mel_out + self.postnet(mel_out, inside, generator)) * inside,
            gate=gate.repeat_interleave(r, 1)[:, :num_frames] * mask,
            alignment=alignment.repeat_interleave(r, 1)[:, :num_frames] * mask.unsqueeze(2),
        )

    @torch.no_grad()
    def _with_own_frames(
        self, memory: Tensor, lengths: Tensor, mel: Tensor, share: float, generator: Generator | None = None
    ) -> Tensor:
        """Replace a fraction of the steps of mel (B, n_mels, S * r) by the decoder's own predictions, as in synthesis:
        parallel scheduled sampling (Duckworth et al., 2019, arXiv:1906.04331)."""
        r = self.config.n_frames_per_step
        own = self.decoder(memory, lengths, mel, generator)[0]
        teacher = draw_kept((len(mel), 1, mel.shape[2] // r), share, mel.device, generator)
        return torch.where(teacher.repeat_interleave(r, 2), mel, own.to(mel.dtype))

    @torch.no_grad()
    def infer(
        self,
        text: Tensor,
        text_lengths: Tensor,
        max_decoder_steps: int | None = None,
        generator: Generators = None,
        patience: int | None = None,
        window: int | None = None,
        speaker: Tensor | None = None,
    ) -> Tacotron2Speech:
        """Free running: text (B, L) ids, text_lengths (B), speaker (B) ids as in `forward`; at most max_decoder_steps
        steps (default: the config's).

        Given a list of generators, one for each text, a text gives the same speech in any batch; a text for which the
        list holds None has no dropout. Without a list the config decides whether there is dropout. An utterance also
        ends after `patience` frames in which the attention has not moved on. With a `window` the attention is
        monotonic: it may look at most this many symbols ahead. None: no such limit.
        """
        r = self.config.n_frames_per_step
        memory = self.encode_each(text, text_lengths, speaker)
        limits = self._limits(max_decoder_steps, patience, window)
        if not (self.config.dropout_in_synthesis or isinstance(generator, list)):
            generator = [None] * len(text)
        mel, num_steps, alignment, truncated = self.decoder.infer(memory, text_lengths, limits, generator)
        mask = lengths_to_mask(num_steps * r, mel.shape[2])
        return Tacotron2Speech(
            mel_postnet=self.after_decoder_each(mel, mask.unsqueeze(1)),
            mel_lengths=num_steps * r,
            alignment=alignment.repeat_interleave(r, 1) * mask.unsqueeze(2),
            truncated=truncated,
        )

    def _limits(self, max_decoder_steps: int | None, patience: int | None, window: int | None) -> Limits:
        max_steps = max_decoder_steps or self.config.max_decoder_steps
        return Limits(max_steps, patience and math.ceil(patience / self.config.n_frames_per_step), window)

    def encode_each(self, text: Tensor, lengths: Tensor, speaker: Tensor | None = None) -> Tensor:
        """As `encode`; on a CPU each text alone, so that its bits do not depend on the others."""
        if text.device.type != "cpu":
            return self.encode(text, lengths, speaker)
        speakers = [None] * len(text) if speaker is None else speaker.unsqueeze(1)
        rows = zip(text.unsqueeze(1), lengths.unsqueeze(1), speakers, strict=True)
        return pad_sequence([self.encode(row[:, : int(n)], n, who)[0] for row, n, who in rows], batch_first=True)

    def after_decoder_each(self, mel: Tensor, inside: Tensor) -> Tensor:
        """As `after_decoder`, for mel (B, n_mels, T) and the mask (B, 1, T) of its frames; on a CPU each mel alone."""
        if mel.device.type != "cpu":
            return self.after_decoder(mel * inside, inside) * inside
        rows = zip(mel.unsqueeze(1), inside.sum(2).tolist(), strict=True)
        return pad_last([self.after_decoder(row[:, :, :n])[0] for row, (n,) in rows], min_length=mel.shape[2])

    def after_decoder(self, mel: Tensor, inside: Tensor | None = None) -> Tensor:
        """The decoder's mel (B, n_mels, T) -> the log-mel that is synthesized"""
        mask = torch.ones(1, 1, mel.shape[2], dtype=torch.bool, device=mel.device) if inside is None else inside
        log_mel: Tensor = self.postfilter(self.log_mel(mel + self.postnet(mel, mask)))
        return log_mel
