"""The models that synthesis supports, and how they are loaded from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from common.checkpoint import formats
from common.checkpoint.checkpoint import Checkpoint
from common.errors import UserError
from common.spec import ModelSpec
from tacotron2.spec import TACOTRON2
from waveglow.spec import WAVEGLOW

MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in (TACOTRON2, WAVEGLOW)}


def load_model(path: str | Path, device: str | torch.device = "cpu", **overrides: Any) -> nn.Module:
    """Load the model of a checkpoint, or of the newest one in a run directory, in eval mode.

    Layouts: ours, safetensors, NVIDIA DeepLearningExamples', NVIDIA/tacotron2's and NVIDIA/waveglow's; the sizes come
    from the file. `overrides` replace fields of the config: prenet_dropout=0.0 makes Tacotron 2 deterministic.
    """
    checkpoint = formats.load(path, MODELS.values())
    return formats.build(checkpoint, path, MODELS.values(), **overrides).to(device)


def load_checkpoint(path: str | Path, name: str) -> Checkpoint:
    """Load a checkpoint of the model `name`. Errors start with `name`, which is also the name of the option."""
    try:
        return formats.load(path, [MODELS[name]])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
