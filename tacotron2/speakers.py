"""Several speakers in one model: an embedding of the speaker, behind the encoder's output at each symbol (Jia et al.,
2018, arXiv:1806.04558, section 2.2; there it comes from a network that has heard the speaker, here it is learned).

The attention's weights sum to 1, so its context ends with the embedding at every step but the first, where it is 0.

Shapes: B batch, L characters, E channels of the encoder, D channels of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.ops.padding import lengths_to_mask


def with_speakers(memory: Tensor, lengths: Tensor, embedding: Tensor) -> Tensor:
    """memory (B, L, E), lengths (B), embedding (B, D) -> (B, L, E + D), 0 beyond the lengths"""
    mask = lengths_to_mask(lengths, memory.shape[1]).unsqueeze(2)
    return torch.cat((memory, (embedding.unsqueeze(1) * mask).to(memory.dtype)), 2)


def id_tensor(ids: Sequence[int | None], device: torch.device) -> Tensor | None:
    """The ids of the speakers of a batch (B); None if they are not all known, which a model with speakers refuses."""
    known = [number for number in ids if number is not None]
    return torch.tensor(known, device=device) if known and len(known) == len(ids) else None
