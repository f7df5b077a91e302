"""The models as ONNX graphs. Batch B, text length L and number of frames T are dynamic.

encoder       text (B, L) int64, text_lengths (B) int64, and if the model has speakers, speaker (B) int64
              -> memory (B, L, E), keys (B, L, attention_dim)
decoder_step  frames (B, n_mels * r), the last r frames; prenet_masks (2, B, prenet_dim), 0 where the prenet drops
              and 1 / (1 - p) elsewhere; memory, keys, text_lengths; the state, see STATE
              -> next_frames, gate (B) logits, and the state for the next step, each named next_...
postnet       mel (B, n_mels, T), the frames of all steps, mel_lengths (B) int64 -> mel_postnet (B, n_mels, T) log-mel,
              after the postfilter
waveglow      mel (B, n_mels, T), z (B, n_group, T * hop_length / n_group), already multiplied by sigma
              -> audio (B, T * hop_length)
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.ops.padding import lengths_to_mask
from tacotron2.model import AttentionState, Memory, Tacotron2
from tacotron2.speakers import with_speakers
from waveglow.model import WN, InvertibleConv, WaveGlow

STATE = {  # input of decoder_step: its last dimension
    "attention_hidden": "attention_rnn_dim",
    "attention_cell": "attention_rnn_dim",
    "attention_weights": "length",
    "attention_weights_sum": "length",
    "attention_context": "memory_dim",
    "decoder_hidden": "decoder_rnn_dim",
    "decoder_cell": "decoder_rnn_dim",
}
TOLERANCE = 1e-3


class Graph(NamedTuple):
    """What one file holds: the module to trace, the names of its outputs, and a function that computes the same with
    the model itself."""

    module: nn.Module
    outputs: list[str]
    computed: Callable[..., Tensor | tuple[Tensor, ...]]


def graphs(tacotron2: Tacotron2, waveglow: WaveGlow) -> dict[str, Graph]:
    """The four graphs by name."""
    step, postnet = DecoderStepGraph(tacotron2), PostnetGraph(tacotron2)

    def encoded(text: Tensor, text_lengths: Tensor, speaker: Tensor | None = None) -> tuple[Tensor, ...]:
        memory = tacotron2.encode(text, text_lengths, speaker)
        return memory, tacotron2.decoder.attention_layer.memory_layer(memory)

    def audio(mel: Tensor, z: Tensor) -> Tensor:
        return waveglow.infer(mel, 1.0, z)

    encoder = SpeakersEncoderGraph(tacotron2) if tacotron2.config.speakers else EncoderGraph(tacotron2)
    return {
        "encoder": Graph(encoder, ["memory", "keys"], encoded),
        "decoder_step": Graph(step, ["next_frames", "gate", *(f"next_{name}" for name in STATE)], step),
        "postnet": Graph(postnet, ["mel_postnet"], postnet),
        "waveglow": Graph(WaveGlowGraph(waveglow), ["audio"], audio),
    }


class EncoderGraph(nn.Module):
    """The encoder and the attention's keys. It can only be traced: its LSTM is ONNX's operator, which knows lengths."""

    weights: Tensor  # (2 directions, 4 * E / 2, E)
    recurrent_weights: Tensor  # (2, 4 * E / 2, E / 2)
    biases: Tensor  # (2, 8 * E / 2)

    def __init__(self, model: Tacotron2) -> None:
        super().__init__()
        self.embedding, self.convolutions = model.embedding, model.encoder.convolutions
        self.keys = model.decoder.attention_layer.memory_layer
        lstm = model.encoder.lstm
        self.hidden_size = lstm.hidden_size

        def of_both(name: str) -> Tensor:
            forward, backward = getattr(lstm, f"{name}_l0"), getattr(lstm, f"{name}_l0_reverse")
            return torch.stack((_in_onnx_order(forward), _in_onnx_order(backward))).detach()

        self.register_buffer("weights", of_both("weight_ih"))
        self.register_buffer("recurrent_weights", of_both("weight_hh"))
        self.register_buffer("biases", torch.cat((of_both("bias_ih"), of_both("bias_hh")), 1))

    def forward(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        memory = self.encoded(text, text_lengths)
        return memory, self.keys(memory)

    def encoded(self, text: Tensor, text_lengths: Tensor) -> Tensor:
        """The encoder's output (B, L, E)."""
        (batch, length), mask = text.shape, lengths_to_mask(text_lengths, text.shape[1]).unsqueeze(1)
        x = self.embedding(text).transpose(1, 2) * mask
        for convolution in self.convolutions:
            x = F.relu(convolution(x)) * mask
        directions = torch.onnx.ops.symbolic(  # (L, 2, B, E / 2), 0 beyond the lengths
            "LSTM",
            (x.permute(2, 0, 1), self.weights, self.recurrent_weights, self.biases, text_lengths.to(torch.int32)),
            {"hidden_size": self.hidden_size, "direction": "bidirectional"},
            dtype=x.dtype,
            shape=(length, 2, batch, self.hidden_size),
        )
        return directions.permute(2, 0, 1, 3).flatten(2)


class SpeakersEncoderGraph(EncoderGraph):
    """The same with an embedding of the speaker."""

    def __init__(self, model: Tacotron2) -> None:
        super().__init__(model)
        self.speaker_embedding = model.speaker_embedding

    def forward(self, text: Tensor, text_lengths: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        memory = with_speakers(self.encoded(text, text_lengths), text_lengths, self.speaker_embedding(speaker))
        return memory, self.keys(memory)


def _in_onnx_order(weight: Tensor) -> Tensor:
    """The gates of an LSTM (4 * H, ...) in ONNX's order: input, output, forget, cell."""
    i, f, g, o = weight.chunk(4)
    return torch.cat((i, o, f, g))


class DecoderStepGraph(nn.Module):
    """One step of the decoder. The masks of the prenet's dropout are inputs, so that the graph is deterministic."""

    def __init__(self, model: Tacotron2) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, frames: Tensor, prenet_masks: Tensor, memory: Tensor, keys: Tensor, text_lengths: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        decoder = self.decoder
        x = frames
        for i, layer in enumerate(decoder.prenet.layers):
            x = F.relu(layer(x)) * prenet_masks[i]
        *attention_state, decoder_hidden, decoder_cell = state
        padding = ~lengths_to_mask(text_lengths, memory.shape[1])
        attention = decoder.attention_step(x, AttentionState(*attention_state), Memory(memory, keys, padding))
        rnn = decoder.decoder_step(attention, (decoder_hidden, decoder_cell))
        output = torch.cat((rnn[0], attention.context), 1)
        gate = decoder.gate_layer(output).squeeze(1)
        new_state = (attention.hidden, attention.cell, attention.weights, attention.weights_sum, attention.context)
        return decoder.linear_projection(output), gate, *new_state, *rnn


class PostnetGraph(nn.Module):
    """The postnet, the conversion of normalized mels to log-mels, and the postfilter."""

    def __init__(self, model: Tacotron2) -> None:
        super().__init__()
        self.postnet, self.postfilter, self.log_mel = model.postnet, model.postfilter, model.log_mel

    def forward(self, mel: Tensor, mel_lengths: Tensor) -> Tensor:
        mask = lengths_to_mask(mel_lengths, mel.shape[2]).unsqueeze(1)
        mel = mel * mask
        mel = self.postfilter(self.log_mel(mel + self.postnet(mel, mask)))
        return mel * mask


class Conv(nn.Module):
    """A convolution with constant weights that keeps the length: x (B, in_dim, G) -> (B, out_dim, G)"""

    weight: Tensor  # (out_dim, in_dim / groups, kernel)
    bias: Tensor  # (out_dim)

    def __init__(self, weight: Tensor, bias: Tensor | None = None, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", weight.new_zeros(len(weight)) if bias is None else bias.detach())
        self.dilation, self.groups = dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        padding = self.dilation * (self.weight.shape[2] // 2)
        return F.conv1d(x, self.weight, self.bias, padding=padding, dilation=self.dilation, groups=self.groups)


class CouplingGraph(nn.Module):
    """WN with its weight norm applied. Channels come second, as in ONNX's convolutions: tracing WN itself takes four
    times as long, and its graph runs three times slower."""

    def __init__(self, wn: WN) -> None:
        super().__init__()
        weights = wn.weights()
        conditions = zip(*(part.chunk(len(weights.in_layers)) for part in weights.conditions), strict=True)
        self.start, self.end = Conv(*weights.start), Conv(*weights.end)
        self.conditions = nn.ModuleList(Conv(*filters) for filters in conditions)
        # In a separable model the kernels of in_layers have size 1, and their dilation does not matter.
        self.in_layers = nn.ModuleList(Conv(*filters, dilation=2**i) for i, filters in enumerate(weights.in_layers))
        self.res_skip = nn.ModuleList(Conv(*filters) for filters in weights.res_skip)
        self.taps = nn.ModuleList(
            Conv(taps.T.unsqueeze(1), dilation=2**i, groups=taps.shape[1]) for i, taps in enumerate(weights.taps)
        )

    def forward(self, x: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C / 2, G), mel (B, its channels, G) -> log_s, b, each (B, C / 2, G)"""
        x = self.start(x)
        channels, skip = x.shape[1], torch.zeros_like(x)
        for i, (in_layer, condition) in enumerate(zip(self.in_layers, self.conditions, strict=True)):
            mixed = self.taps[i](x) if self.taps else x
            gates = in_layer(mixed) + condition(mel)
            out = self.res_skip[i](torch.tanh(gates[:, :channels]) * torch.sigmoid(gates[:, channels:]))
            if i < len(self.in_layers) - 1:
                x = x + out[:, :channels]
            skip = skip + out[:, -channels:]
        out = self.end(skip)
        half = out.shape[1] // 2
        return out[:, half:], out[:, :half]


class WaveGlowGraph(nn.Module):
    """The inverse of the flow, with its weight norms and inverse matrices computed once."""

    def __init__(self, model: WaveGlow) -> None:
        super().__init__()
        self.model = model
        self.couplings = nn.ModuleList(CouplingGraph(cast(WN, wn)) for wn in model.WN)
        self.inverses = nn.ModuleList(
            Conv(cast(InvertibleConv, c).inverse_weight().unsqueeze(2)) for c in model.convinv
        )

    def forward(self, mel: Tensor, z: Tensor) -> Tensor:
        model, config = self.model, self.model.config
        condition = model.condition(mel, mel.shape[2] * config.hop_length).transpose(1, 2)
        first = config.n_group - model.last_dim  # of the channels of z that the flows have processed
        x = z[:, first:]
        for k in reversed(range(config.n_flows)):
            half = x.shape[1] // 2
            x_a, x_b = x[:, :half], x[:, half:]
            log_s, b = self.couplings[k](x_a, condition)
            x = self.inverses[k](torch.cat((x_a, (x_b - b) * torch.exp(-log_s)), 1))
            if model.leaves_early(k):
                first -= config.n_early_size
                x = torch.cat((z[:, first : first + config.n_early_size], x), 1)
        return model.samples(x.transpose(1, 2))


@torch.no_grad()
def example_inputs(
    tacotron2: Tacotron2, waveglow: WaveGlow, batch: int, length: int, num_frames: int
) -> dict[str, dict[str, Tensor]]:
    """The inputs of each graph by name; the last item of the batch is shorter than the others."""
    config, hop = tacotron2.config, waveglow.config.hop_length
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(1, config.n_symbols, (batch, length), generator=generator)
    text_lengths, mel_lengths = torch.full((batch,), length), torch.full((batch,), num_frames)
    text_lengths[-1], mel_lengths[-1] = length // 2, num_frames // 2
    speaker = {"speaker": torch.arange(batch) % len(config.speakers)} if config.speakers else {}
    memory = tacotron2.encode(text, text_lengths, speaker.get("speaker"))
    keys = tacotron2.decoder.attention_layer.memory_layer(memory)
    sizes = dataclasses.asdict(config) | {"length": length, "memory_dim": config.memory_dim}
    state = {name: torch.rand(batch, sizes[size], generator=generator) for name, size in STATE.items()}
    masks = torch.randint(0, 2, (2, batch, config.prenet_dim), generator=generator) * 2.0
    frames = torch.randn(batch, config.n_mel_channels * config.n_frames_per_step, generator=generator)
    mel = torch.randn(batch, config.n_mel_channels, num_frames, generator=generator)
    z = torch.randn(batch, waveglow.config.n_group, num_frames * hop // waveglow.config.n_group, generator=generator)
    step = {"frames": frames, "prenet_masks": masks, "memory": memory, "keys": keys, "text_lengths": text_lengths}
    return {
        "encoder": {"text": text, "text_lengths": text_lengths} | speaker,
        "decoder_step": step | state,
        "postnet": {"mel": mel, "mel_lengths": mel_lengths},
        "waveglow": {"mel": mel, "z": z},
    }


def free_dimensions(inputs: dict[str, Tensor], waveglow: WaveGlow) -> dict[str, dict[int, Any]]:
    """The dynamic dimensions of each input; those with the same name are equal."""
    batch, length, frames = (torch.export.Dim(name, min=1) for name in ("batch", "length", "frames"))
    groups_per_frame = waveglow.config.hop_length // waveglow.config.n_group
    named = {
        "text": {0: batch, 1: length},
        "memory": {0: batch, 1: length},
        "keys": {0: batch, 1: length},
        "attention_weights": {0: batch, 1: length},
        "attention_weights_sum": {0: batch, 1: length},
        "prenet_masks": {1: batch},
        "mel": {0: batch, 2: frames},
        "z": {0: batch, 2: groups_per_frame * frames},
    }
    return {name: named.get(name, {0: batch}) for name in inputs}


def export(path: Path, graph: Graph, inputs: dict[str, Tensor], waveglow: WaveGlow) -> None:
    """Write `graph` to `path`."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    shapes: tuple[Any, ...] = tuple(free_dimensions(inputs, waveglow).values())
    parameters = inspect.signature(graph.module.forward).parameters.values()
    named = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    if len(shapes) > named:  # those of *state form a tuple of their own
        shapes = (*shapes[:named], shapes[named:])
    with torch.no_grad():
        program = torch.onnx.export(
            graph.module.eval(),
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=graph.outputs,
            dynamic_shapes=shapes,
            verbose=False,
            optimize=False,  # onnxruntime does the same when it loads the file, in a hundredth of the time
        )
    assert program is not None
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with paths of this machine
    program.save(path, external_data=False)


def largest_difference(path: Path, graph: Graph, inputs: dict[str, Tensor]) -> float:
    """The largest difference between PyTorch and onnxruntime over all outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        ours = graph.computed(*inputs.values())
    ours = ours if isinstance(ours, tuple) else (ours,)
    return max(float((a - torch.from_numpy(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))
