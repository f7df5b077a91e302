"""WaveGlow models for tests."""

from __future__ import annotations

from torch import nn


def randomize_couplings(model: nn.Module) -> None:
    """Set the last convolution of each coupling network, which starts at zero, to random values, as if trained."""
    for name, parameter in model.named_parameters():
        if name.startswith("WN.") and name.endswith(".end.weight"):
            nn.init.normal_(parameter, std=0.1)
