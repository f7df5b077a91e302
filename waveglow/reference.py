"""Convert WaveGlow checkpoints of the reference implementations, NVIDIA DeepLearningExamples and NVIDIA/waveglow.

Their keys are ours, with two exceptions: weight norm may be stored in three ways, and NVIDIA/waveglow stores the
conditioning as one convolution for each flow.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.checkpoint.checkpoint import Checkpoint
from common.config import AudioConfig
from common.errors import UserError
from common.schema import from_dict
from waveglow.model import WaveGlowConfig

_NORMED = re.compile(r"(WN\.\d+\.(?:start|cond_layer|(?:in|cond|res_skip)_layers\.\d+))\.(.+)")
FIXED = ("hop_length", "win_length", "separable", "encoder_dim", "mdct")  # constants in its code, or unknown to it
_PARAMETRIZED = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def recognizes(state_dict: Mapping[str, Tensor]) -> bool:
    return {"upsample.weight", "convinv.0.conv.weight"} <= state_dict.keys()


def from_reference(state_dict: dict[str, Tensor], settings: Mapping[str, Any]) -> Checkpoint:
    """Convert to our checkpoint. The sizes come from the tensors, or from `settings` if no tensor shows them.

    Raises KeyError if a tensor is missing.
    """
    weights = _with_weight_norm({key: value.float() for key, value in state_dict.items()})
    num_flows = _count(weights, "convinv.{}.conv.weight")
    channels = [weights[f"convinv.{k}.conv.weight"].shape[0] for k in range(num_flows)]
    drops = [k for k, (before, after) in enumerate(itertools.pairwise(channels), 1) if before != after]
    # If no flow drops channels, the tensors do not determine these two numbers; any values that drop none are right.
    n_early_every = drops[0] if drops else max(num_flows, settings.get("n_early_every", 0))
    n_early_size = channels[0] - channels[drops[0]] if drops else settings.get("n_early_size", 2)
    n_mels, _, win_length = weights["upsample.weight"].shape
    hop_length = settings.get("upsample.stride", (256,))[0]  # not in the tensors; a constant in the reference's code
    in_layer = weights["WN.0.in_layers.0.weight_v"].shape
    sizes = {
        "n_mel_channels": n_mels,
        "hop_length": hop_length,
        "win_length": win_length,
        "n_flows": num_flows,
        "n_group": channels[0],
        "n_early_every": n_early_every,
        "n_early_size": n_early_size,
        "n_layers": _count(weights, "WN.0.in_layers.{}.weight_v"),
        "n_channels": in_layer[1],
        "kernel_size": in_layer[2],
    }
    config = from_dict(WaveGlowConfig, sizes)
    return Checkpoint(
        model_name="waveglow",
        model_config=dataclasses.asdict(config),
        audio=AudioConfig(n_mels=n_mels, n_fft=win_length, win_length=win_length, hop_length=hop_length),
        text=None,
        state_dict=_with_separate_conditioning(weights, config),
    )


def to_reference(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return (constructor arguments, state_dict) for DeepLearningExamples' WaveGlow, which loads strictly.

    Raises UserError if a setting in FIXED differs from the reference's.
    """
    config = dataclasses.asdict(from_dict(WaveGlowConfig, checkpoint.model_config))
    default = dataclasses.asdict(WaveGlowConfig())
    for key in ("encoder_layers", "sigma", "match_mel", "overlap"):
        del config[key]
    for key in FIXED:
        if (value := config.pop(key)) != default[key]:
            raise UserError(
                f"model.{key}={value} has no place in the reference's layout, where it is always {default[key]}; "
                "convert to safetensors instead"
            )
    config["WN_config"] = {key: config.pop(key) for key in ("n_layers", "kernel_size", "n_channels")}
    return config, dict(checkpoint.state_dict)


def added_weights(config: WaveGlowConfig) -> dict[str, Tensor]:
    """Return the weights that only our model has: none."""
    return {}


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    return next(i for i in itertools.count() if pattern.format(i) not in weights)


def _with_weight_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give each convolution of WN its weight_g and weight_v, whether they are stored under these names, under those of
    torch's parametrizations, or as one weight."""
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        match = _NORMED.fullmatch(key)
        if match and match[2] == "weight":
            norm = value.norm(dim=(1, 2), keepdim=True)
            result[f"{match[1]}.weight_g"] = norm
            # A filter of zeros has no direction: any is right, since its norm is 0.
            result[f"{match[1]}.weight_v"] = torch.where(norm > 0, value, torch.ones_like(value))
        elif match:
            result[f"{match[1]}.{_PARAMETRIZED.get(match[2], match[2])}"] = value
        else:
            result[key] = value
    return result


def _with_separate_conditioning(weights: dict[str, Tensor], config: WaveGlowConfig) -> dict[str, Tensor]:
    """Split WN.k.cond_layer into WN.k.cond_layers.i, along its output channels."""
    result: dict[str, Tensor] = {}
    for key, value in weights.items():
        if match := re.fullmatch(r"(WN\.\d+)\.cond_layer\.(\w+)", key):
            if value.shape[0] != 2 * config.n_channels * config.n_layers:
                raise UserError(f"{key} has {value.shape[0]} outputs, not {config.n_layers} x 2 x {config.n_channels}")
            for i, part in enumerate(value.chunk(config.n_layers)):
                result[f"{match[1]}.cond_layers.{i}.{match[2]}"] = part.clone()
        else:
            result[key] = value
    return result
