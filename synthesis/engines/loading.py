"""Which engine the options name, and its loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from common.errors import UserError, did_you_mean
from common.schema import from_dict
from synthesis.engines.options import AudioLDM2Options, BarkOptions, EngineOptions
from synthesis.engines.protocol import VoicedEngine
from synthesis.vocoder import SpeechPrecision

OWN = "tacotron2"  # Tacotron 2 + WaveGlow, whose options are not in `engine`
OPTIONS: dict[str, type[EngineOptions]] = {"bark": BarkOptions, "audioldm2": AudioLDM2Options}


def engine_options(values: Mapping[str, Any]) -> EngineOptions | None:
    """The options in `values`, such as {"name": "bark", "model": ...}; None for Tacotron 2 + WaveGlow.

    Raises UserError if the engine is unknown, or has no such options.
    """
    name = values.get("name", OWN)
    if name == OWN:
        if others := sorted(values.keys() - {"name"}):
            raise UserError(f"engine.{others[0]}={values[others[0]]}: engine={OWN} has no such option; leave it out")
        return None
    if name not in OPTIONS:
        raise UserError(f"engine={name} is unknown{did_you_mean(str(name), [OWN, *OPTIONS])}")
    return from_dict(OPTIONS[name], values)


def load_engine(options: EngineOptions, device: torch.device, precision: SpeechPrecision = "fp32") -> VoicedEngine:
    """Load an engine beside Tacotron 2 + WaveGlow. Raises UserError if it cannot be loaded."""
    if precision == "int8":
        raise UserError(f"precision=int8: engine={options.name} has fp32, fp16 and bf16")
    if isinstance(options, BarkOptions):
        from synthesis.engines.bark import Bark

        return Bark.load(options, device, precision)
    from synthesis.engines.audioldm2 import AudioLDM2

    return AudioLDM2.load(options, device, precision)
