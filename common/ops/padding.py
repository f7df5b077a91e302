"""Sequences of different lengths in one padded tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def lengths_to_mask(lengths: Tensor, max_length: int) -> Tensor:
    """Lengths (B) -> mask (B, max_length), True inside each sequence."""
    return torch.arange(max_length, device=lengths.device) < lengths.unsqueeze(1)


def pad_last(sequences: Sequence[Tensor], value: float = 0.0, min_length: int = 0) -> Tensor:
    """Tensors (..., T_i) -> (B, ..., max(max T_i, min_length)), padded with `value`."""
    longest = max(min_length, *(sequence.shape[-1] for sequence in sequences))
    return torch.stack([torch.nn.functional.pad(s, (0, longest - s.shape[-1]), value=value) for s in sequences])


def pad_to_multiple(x: Tensor, dim: int, multiple: int, value: float = 0.0) -> Tensor:
    """Pad dimension `dim` of x with `value` at its end, to a multiple of `multiple`."""
    missing = -x.shape[dim] % multiple
    if not missing:
        return x
    shape = list(x.shape)
    shape[dim] = missing
    return torch.cat((x, x.new_full(shape, value)), dim)
