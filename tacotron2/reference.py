"""The reference's Tacotron 2 checkpoints: NVIDIA DeepLearningExamples' and NVIDIA/tacotron2's, whose keys are ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.config import AudioConfig, from_dict
from common.errors import UserError
from tacotron2.model import Tacotron2Config
from tacotron2.text import SYMBOLS

# What shapes do not tell; of DeepLearningExamples' 22 constructor arguments these and the sizes are ours too.
BEHAVIOUR = ("max_decoder_steps", "gate_threshold", "p_attention_dropout", "p_decoder_dropout")
FIXED = ("p_encoder_dropout", "prenet_dropout", "p_postnet_dropout", "mel_mean", "mel_std")  # not in its constructor


def recognizes(state_dict: Mapping[str, Tensor]) -> bool:
    return {"embedding.weight", "decoder.attention_rnn.weight_hh"} <= state_dict.keys()


def from_reference(state_dict: dict[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our checkpoint's description and weights. Sizes are those of the tensors; KeyError if one is missing."""
    shape = {key: tuple(value.shape) for key, value in state_dict.items()}
    num_encoder, num_postnet = (_count(state_dict, part) for part in ("encoder", "postnet"))
    n_mels = shape[f"postnet.convolutions.{num_postnet - 1}.0.conv.weight"][0]
    attention = "decoder.attention_layer."
    location_conv = shape[f"{attention}location_layer.location_conv.conv.weight"]
    sizes = {
        "n_mel_channels": n_mels,
        "n_symbols": shape["embedding.weight"][0],
        "symbols_embedding_dim": shape["embedding.weight"][1],
        "encoder_kernel_size": shape["encoder.convolutions.0.0.conv.weight"][2],
        "encoder_n_convolutions": num_encoder,
        "encoder_embedding_dim": 2 * shape["encoder.lstm.weight_hh_l0"][1],
        "attention_rnn_dim": shape["decoder.attention_rnn.weight_hh"][1],
        "attention_dim": shape[f"{attention}query_layer.linear_layer.weight"][0],
        "attention_location_n_filters": location_conv[0],
        "attention_location_kernel_size": location_conv[2],
        "n_frames_per_step": shape["decoder.linear_projection.linear_layer.weight"][0] // n_mels,
        "decoder_rnn_dim": shape["decoder.decoder_rnn.weight_hh"][1],
        "prenet_dim": shape["decoder.prenet.layers.0.linear_layer.weight"][0],
        "postnet_embedding_dim": shape["postnet.convolutions.0.0.conv.weight"][0],
        "postnet_kernel_size": shape["postnet.convolutions.0.0.conv.weight"][2],
        "postnet_n_convolutions": num_postnet,
    }
    behaviour = {key: settings[key] for key in BEHAVIOUR if key in settings}
    weights = dict(state_dict)
    for key in state_dict:  # PyTorch counts batches since 0.4.1; nothing here depends on the number
        if key.endswith(".running_mean"):
            weights.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    weights.setdefault("sharpening.mean", torch.zeros(n_mels))  # theirs speak mels as they are predicted
    weights.setdefault("sharpening.gain", torch.ones(n_mels))
    standard = sizes["n_symbols"] == len(SYMBOLS)
    return {
        "model_config": dataclasses.asdict(from_dict(Tacotron2Config, sizes | behaviour, "config")),
        "audio_config": dataclasses.asdict(AudioConfig(n_mels=n_mels)),
        "text": {"symbols": list(SYMBOLS) if standard else None, "cleaners": "english_cleaners"},
        "state_dict": {key: value.float() if value.is_floating_point() else value for key, value in weights.items()},
    }


def to_reference(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(constructor arguments, state_dict) for NVIDIA DeepLearningExamples' Tacotron2, strict.

    A UserError if the model has what that one cannot have.
    """
    config = dataclasses.asdict(from_dict(Tacotron2Config, checkpoint["model_config"], "model"))
    default = dataclasses.asdict(Tacotron2Config())
    for key in FIXED:
        if config.pop(key) != default[key]:
            raise UserError(
                f"model.{key}={checkpoint['model_config'][key]} has no place in the reference's layout, where it is "
                f"always {default[key]}; convert to safetensors instead, or speak with it here"
            )
    for key in ("p_frame_dropout", "p_own_frames"):  # of training alone, and not in the reference
        del config[key]
    config |= {"mask_padding": False, "decoder_no_early_stopping": False}
    return config, {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("sharpening.")}


def _count(state_dict: Mapping[str, Tensor], part: str) -> int:
    """How many convolutions `part` has."""
    count = 0
    while f"{part}.convolutions.{count}.0.conv.weight" in state_dict:
        count += 1
    return count
