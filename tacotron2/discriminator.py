"""Tells recorded mels from those that Tacotron 2 makes, patch by patch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from common.ops.padding import lengths_to_mask

MEL_MEAN, MEL_STD = -5.5, 2.0  # about those of speech
CHANNELS = (32, 64, 64)


class MelDiscriminator(nn.Module):
    """Judges each patch of 45 bands and 31 frames (0.36 s at a hop of 256 samples and 22,050 Hz).

    It also sees which band is which, since low bands differ from high ones.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = pairwise((3, *CHANNELS))
        self.layers = nn.ModuleList(weight_norm(nn.Conv2d(*pair, (5, 3), stride=2, padding=(2, 1))) for pair in sizes)
        self.verdict = nn.Conv2d(CHANNELS[-1], 1, 3, padding=1)

    def forward(self, mel: Tensor, lengths: Tensor) -> list[tuple[Tensor, Tensor]]:
        """mel (B, n_mels, T), lengths (B) -> [(output of a layer (B, C, bands, T'), its mask (B, 1, 1, T'))].

        The last is the verdict, C = 1. Padding changes nothing.
        """
        mask = _mask(lengths, mel.shape[2])
        x = ((mel - MEL_MEAN) / MEL_STD).unsqueeze(1)
        band = torch.linspace(-1, 1, mel.shape[1], device=mel.device).view(1, 1, -1, 1).expand_as(x)
        x, outputs = torch.cat([x, band, band**2], 1) * mask, []
        for layer in self.layers:
            lengths = (lengths + 1) // 2
            x = F.leaky_relu(layer(x), 0.2)
            mask = _mask(lengths, x.shape[3])
            x = x * mask
            outputs.append((x, mask))
        return [*outputs, (self.verdict(x), mask)]


def _mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(B, 1, 1, num_frames)"""
    return lengths_to_mask(lengths, num_frames)[:, None, None].float()
