"""Convert Tacotron 2 checkpoints of the reference implementations, NVIDIA DeepLearningExamples and NVIDIA/tacotron2.
The weights have the same names here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.checkpoint.checkpoint import Checkpoint
from common.config import AudioConfig, TextConfig
from common.errors import UserError
from common.schema import from_dict
from common.wording import counted
from tacotron2.model import Tacotron2Config
from tacotron2.text import SYMBOLS

# Of DeepLearningExamples' 22 constructor arguments we use these and the sizes, which we take from the tensors.
BEHAVIOR = ("max_decoder_steps", "gate_threshold", "p_attention_dropout", "p_decoder_dropout")
# Not arguments there: the dropout rates are constants in its code, and it does not normalize mels.
FIXED = ("p_encoder_dropout", "prenet_dropout", "dropout_in_synthesis", "p_postnet_dropout", "mel_mean", "mel_std")
TRAINING_ONLY = ("p_frame_dropout", "p_own_frames")  # not in its code


def recognizes(state_dict: Mapping[str, Tensor]) -> bool:
    return {"embedding.weight", "decoder.attention_rnn.weight_hh"} <= state_dict.keys()


def from_reference(state_dict: dict[str, Tensor], settings: Mapping[str, Any]) -> Checkpoint:
    """Convert to our checkpoint. The sizes come from the tensors. Raises KeyError if one is missing."""
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
    behavior = {key: settings[key] for key in BEHAVIOR if key in settings}
    weights = dict(state_dict)
    for key in state_dict:  # PyTorch before 0.4.1 did not count batches, and nothing here uses the count
        if key.endswith(".running_mean"):
            weights.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    config = from_dict(Tacotron2Config, sizes | behavior)
    return Checkpoint(
        model_name="tacotron2",
        model_config=dataclasses.asdict(config),
        audio=AudioConfig(n_mels=n_mels),
        text=TextConfig(SYMBOLS if config.n_symbols == len(SYMBOLS) else None, "english_cleaners", language="en"),
        state_dict={key: value.float() if value.is_floating_point() else value for key, value in weights.items()},
    )


def to_reference(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (constructor arguments, state_dict) for DeepLearningExamples' Tacotron2, which loads strictly.

    Settings in TRAINING_ONLY and the postfilter are left out. Raises UserError if a setting in FIXED differs from the
    reference's.
    """
    typed = from_dict(Tacotron2Config, checkpoint.model_config)
    config, default = dataclasses.asdict(typed), dataclasses.asdict(Tacotron2Config())
    if typed.speakers:
        raise UserError(
            f"this model has an embedding of {counted(len(typed.speakers), 'speaker')} (model.speakers), which has no "
            "place in the reference's layout; convert to safetensors instead"
        )
    for key in FIXED:
        if (value := config.pop(key)) != default[key]:
            raise UserError(
                f"model.{key}={value} has no place in the reference's layout, where it is always {default[key]}; "
                "convert to safetensors instead"
            )
    for key in (*TRAINING_ONLY, "speakers", "speaker_dim"):
        del config[key]
    config |= {"mask_padding": False, "decoder_no_early_stopping": False}
    added = added_weights(typed)
    return config, {key: value for key, value in checkpoint.state_dict.items() if key not in added}


def added_weights(config: Tacotron2Config) -> dict[str, Tensor]:
    """Return the weights that only our model has: a postfilter, with values that make it the identity."""
    n_mels = config.n_mel_channels
    return {"postfilter.mean": torch.zeros(n_mels), "postfilter.gain": torch.ones(n_mels)}


def _count(state_dict: Mapping[str, Tensor], part: str) -> int:
    """Return the number of convolutions in `part`."""
    count = 0
    while f"{part}.convolutions.{count}.0.conv.weight" in state_dict:
        count += 1
    return count
