"""The models that synthesis supports, and how they are loaded from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import formats
from common.checkpoint.checkpoint import Checkpoint
from common.errors import UserError
from common.spec import ModelSpec
from tacotron2.spec import TACOTRON2
from waveglow.spec import WAVEGLOW

RUINED = "its {} holds NaN or infinity, as after a training that diverged: use an earlier checkpoint"
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


def not_finite(model: nn.Module) -> str | None:
    """The name of the first weight of `model` that holds NaN or infinity; None if all are finite."""
    weights = model.state_dict().items()
    return next((name for name, weight in weights if not bool(weight.isfinite().all())), None)


def require_finite(model: nn.Module, source: str, **made: Tensor) -> None:
    """Raise a UserError if an array that the model of the checkpoint `source` has made holds NaN or infinity."""
    bad = [name for name, values in made.items() if not bool(values.isfinite().all())]
    if bad:
        cure = "use precision=fp32 and options closer to their defaults, or another checkpoint"
        weight = not_finite(model)
        cause = f"its weights are finite: {cure}" if weight is None else RUINED.format(weight)
        raise UserError(f"{source} gives NaN or infinity in its {' and '.join(bad)}; {cause}")
