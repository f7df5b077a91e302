"""The models as ONNX graphs. Batch B, text length L and number of frames T are dynamic.

encoder       text (B, L) int64, text_lengths (B) int64 -> memory (B, L, E), keys (B, L, attention_dim)
decoder_step  frames (B, n_mels * r), the last r frames; prenet_masks (2, B, prenet_dim), 0 where the prenet drops
              and 1 / (1 - p) elsewhere; memory, keys, text_lengths; the state, see STATE
              -> next_frames, gate (B) logits, and the state for the next step, each named next_...
postnet       mel (B, n_mels, T), the frames of all steps, mel_lengths (B) int64 -> mel_postnet (B, n_mels, T) log-mel
waveglow      mel (B, n_mels, T), z (B, n_group, T * hop_length / n_group), already multiplied by sigma
              -> audio (B, T * hop_length)
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import logging
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.ops.padding import lengths_to_mask
from tacotron2.model import AttentionState, Memory, Tacotron2
from waveglow.model import InvertibleConv, WaveGlow, WeightNormConv

STATE = {  # input of decoder_step: its last dimension
    "attention_hidden": "attention_rnn_dim",
    "attention_cell": "attention_rnn_dim",
    "attention_weights": "length",
    "attention_weights_sum": "length",
    "attention_context": "encoder_embedding_dim",
    "decoder_hidden": "decoder_rnn_dim",
    "decoder_cell": "decoder_rnn_dim",
}
OUTPUTS = {
    "encoder": ["memory", "keys"],
    "decoder_step": ["next_frames", "gate", *(f"next_{name}" for name in STATE)],
    "postnet": ["mel_postnet"],
    "waveglow": ["audio"],
}
TOLERANCE = 1e-3


class EncoderGraph(nn.Module):
    """The encoder and the attention's keys.

    ONNX has no packed sequences. Instead, each text is mirrored within its own length, so that the backward LSTM starts
    at the text's last symbol and not in the padding.
    """

    def __init__(self, model: Tacotron2) -> None:
        super().__init__()
        self.model = model
        lstm = model.encoder.lstm
        self.directions = nn.ModuleList()
        for suffix in ("", "_reverse"):
            one = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
            one.load_state_dict({key: getattr(lstm, key + suffix) for key in one.state_dict()})
            self.directions.append(one)

    def forward(self, text: Tensor, text_lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = lengths_to_mask(text_lengths, text.shape[1])
        x = self.model.embedding(text).transpose(1, 2) * mask.unsqueeze(1)
        for convolution in self.model.encoder.convolutions:
            x = F.relu(convolution(x)) * mask.unsqueeze(1)
        x = x.transpose(1, 2)  # (B, L, E)
        position = torch.arange(text.shape[1]).unsqueeze(0)
        mirrored = torch.where(mask, text_lengths.unsqueeze(1) - 1 - position, position)
        forward, backward = self.directions
        # The order stays the same; without this gather the exporter makes the LSTM's length a constant.
        there = _rows(forward(x)[0], position.expand_as(mirrored))
        back = _rows(backward(_rows(x, mirrored))[0], mirrored)
        memory = torch.cat((there, back), 2) * mask.unsqueeze(2)
        return memory, self.model.decoder.attention_layer.memory_layer(memory)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, L, E) with its rows ordered by index (B, L)"""
    return torch.gather(x, 1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))


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
        self.model = model

    def forward(self, mel: Tensor, mel_lengths: Tensor) -> Tensor:
        mask = lengths_to_mask(mel_lengths, mel.shape[2]).unsqueeze(1)
        mel = mel * mask
        mel = self.model.postfilter(self.model.log_mel(mel + self.model.postnet(mel, mask)))
        return mel * mask


class WaveGlowGraph(nn.Module):
    """The inverse of the flow, with its weight norms and inverse matrices computed once."""

    def __init__(self, model: WaveGlow) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.packed = False  # the runtime has its own layout of weights
        for module in self.model.modules():
            if isinstance(module, WeightNormConv):
                _fix(module, "weight")
            elif isinstance(module, InvertibleConv):
                _fix(module, "inverse_weight")

    def forward(self, mel: Tensor, z: Tensor) -> Tensor:
        return self.model.infer(mel, 1.0, z)


def _fix(module: nn.Module, method: str) -> None:
    """Replace a method without arguments, on this instance only, by the value that it returns now."""
    module.register_buffer(f"fixed_{method}", getattr(module, method)().detach())
    object.__setattr__(module, method, lambda: getattr(module, f"fixed_{method}"))


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
    memory, keys = EncoderGraph(tacotron2)(text, text_lengths)
    sizes = dataclasses.asdict(config) | {"length": length}
    state = {name: torch.rand(batch, sizes[size], generator=generator) for name, size in STATE.items()}
    masks = torch.randint(0, 2, (2, batch, config.prenet_dim), generator=generator) * 2.0
    frames = torch.randn(batch, config.n_mel_channels * config.n_frames_per_step, generator=generator)
    mel = torch.randn(batch, config.n_mel_channels, num_frames, generator=generator)
    z = torch.randn(batch, waveglow.config.n_group, num_frames * hop // waveglow.config.n_group, generator=generator)
    step = {"frames": frames, "prenet_masks": masks, "memory": memory, "keys": keys, "text_lengths": text_lengths}
    return {
        "encoder": {"text": text, "text_lengths": text_lengths},
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


def export(path: Path, graph: nn.Module, inputs: dict[str, Tensor], outputs: list[str], waveglow: WaveGlow) -> None:
    """Write `graph` to `path`."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes: tuple[Any, ...] = tuple(free_dimensions(inputs, waveglow).values())
    parameters = inspect.signature(graph.forward).parameters.values()
    named = sum(parameter.kind is not parameter.VAR_POSITIONAL for parameter in parameters)
    if len(shapes) > named:  # those of *state form a tuple of their own
        shapes = (*shapes[:named], shapes[named:])
    with torch.no_grad():
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )


def largest_difference(path: Path, graph: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The largest difference between PyTorch and onnxruntime over all outputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        ours = graph(*inputs.values())
    ours = ours if isinstance(ours, tuple) else (ours,)
    return max(float((a - torch.from_numpy(b)).abs().max()) for a, b in zip(ours, theirs, strict=True))
