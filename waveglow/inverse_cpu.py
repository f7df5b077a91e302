"""WaveGlow's inverse on a CPU: each layer of a coupling as one large matrix product.

A dilated convolution is a product with rows that hold each position and its neighbors. The mel adds columns to the same
product, so a layer costs one product, the gate, and a second product. In a separable layer the filters are applied
first, and a row then holds one column per channel. Weight norm is applied once, and the weights are stored once in the
layout that the kernels read. The results are those of the inverse by convolutions (tests/test_waveglow.py).

Shapes: B batch, G groups of samples, C channels, c channels of a flow, M channels of the mel that conditions the flows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from common.ops.packed import Int8Linear, PackedLinear, packed_once

if TYPE_CHECKING:
    from waveglow.model import WN, InvertibleConv, WaveGlow, WaveGlowConfig


TILE = 4096  # rows of a product: the system gives and takes larger results page by page, which takes time
ROWS = 256  # products have a multiple of so many rows, see `few_sizes`
INT8_INPUTS = 512  # of a product in int8; with fewer, to quantize the inputs takes longer than the product gains


class FlowWeights(NamedTuple):
    """The weights of one flow: those of its WN, and the inverse of its 1x1 convolution."""

    start: PackedLinear
    joint: list[PackedLinear | Int8Linear]  # (2 C, K * C + M): convolution (K = 1 if separable), mel
    taps: list[Tensor]  # (kernel_size, C) of each layer; empty unless they are separable
    res_skip: list[PackedLinear | Int8Linear]
    end: PackedLinear
    unmix: Tensor  # (c, c), transposed, in float32

    @classmethod
    def of(cls, wn: WN, convinv: InvertibleConv, dtype: torch.dtype, int8: bool) -> FlowWeights:
        """int8: where it pays, see INT8_INPUTS"""

        def packed(weight: Tensor, bias: Tensor) -> PackedLinear:
            return PackedLinear(weight.to(dtype), TILE, bias.to(dtype))

        def large(weight: Tensor, bias: Tensor) -> PackedLinear | Int8Linear:
            return Int8Linear(weight, bias) if int8 and weight.shape[1] >= INT8_INPUTS else packed(weight, bias)

        weights, joint = wn.weights(), []
        conditions = zip(*(part.chunk(len(weights.in_layers)) for part in weights.conditions), strict=True)
        for (taps, bias), (mel_weight, mel_bias) in zip(weights.in_layers, conditions, strict=True):
            weight = torch.cat((taps.permute(0, 2, 1).flatten(1), mel_weight[:, :, 0]), 1)
            scale = torch.ones_like(bias)
            scale[: len(bias) // 2] = 2  # tanh(x) = 2 sigmoid(2 x) - 1, and CPUs compute a sigmoid several times faster
            joint.append(large(weight * scale.unsqueeze(1), (bias + mel_bias) * scale))
        return cls(
            start=packed(weights.start[0][:, :, 0], weights.start[1]),
            joint=joint,
            taps=[tap.to(dtype) for tap in weights.taps],
            res_skip=[large(weight[:, :, 0], bias) for weight, bias in weights.res_skip],
            end=packed(weights.end[0][:, :, 0], weights.end[1]),
            unmix=convinv.inverse_weight().t(),
        )


def coupling(weights: FlowWeights, x: Tensor, rows: Tensor, end: int, config: WaveGlowConfig) -> tuple[Tensor, Tensor]:
    """x (B, G, c / 2), rows (B, G, K * C + M) -> log_s, b, each (B, G, c / 2) in float32. The last M columns of `rows`
    are the mel; the others are overwritten. The audio ends at group `end`; what follows fills the rows up."""
    batch, groups, _ = rows.shape
    channels, taps = config.n_channels, config.kernel_size
    hidden = weights.start(x.to(rows.dtype).flatten(0, 1)).view(batch, groups, channels)
    skip = torch.zeros_like(hidden)
    for i, (joint, res_skip) in enumerate(zip(weights.joint, weights.res_skip, strict=True)):
        hidden[:, end:] = 0  # as a convolution sees it
        if weights.taps:
            _filter(hidden, weights.taps[i], 2**i, rows[:, :, :channels])
        for tap in range(0 if weights.taps else taps):
            _shift(hidden, (tap - taps // 2) * 2**i, rows[:, :, tap * channels : (tap + 1) * channels])
        tiles = (x.flatten(0, 1).split(TILE) for x in (rows, hidden, skip))
        for rows_tile, hidden_tile, skip_tile in zip(*tiles, strict=True):
            tanh, sigmoid = joint(rows_tile).sigmoid_().chunk(2, 1)
            out = res_skip(tanh.mul_(2).sub_(1).mul_(sigmoid))
            if out.shape[1] > channels:  # all but the last layer
                hidden_tile += out[:, :channels]
            skip_tile += out[:, -channels:]
    b, log_s = weights.end(skip.flatten(0, 1)).float().view(batch, groups, -1).chunk(2, 2)
    return log_s, b


def _filter(x: Tensor, taps: Tensor, dilation: int, out: Tensor) -> None:
    """out = x (B, G, C) with each channel filtered by its column of taps (kernel_size, C); zeros beyond the ends"""
    middle, groups = len(taps) // 2, x.shape[1]
    torch.mul(x, taps[middle], out=out)
    for k in range(len(taps)):
        offset = (k - middle) * dilation
        if k != middle and abs(offset) < groups:
            first, last = max(-offset, 0), min(groups - offset, groups)
            out[:, first:last].addcmul_(x[:, first + offset : last + offset], taps[k])


def _shift(x: Tensor, offset: int, out: Tensor) -> None:
    """out[:, g] = x[:, g + offset], 0 beyond the ends; x and out (B, G, C)"""
    groups = x.shape[1]
    first, last = min(max(-offset, 0), groups), max(min(groups - offset, groups), 0)
    out[:, :first] = 0
    out[:, last:] = 0
    if first < last:
        out[:, first:last] = x[:, first + offset : last + offset]


def invert(model: WaveGlow, mel: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
    """mel (B, G, M) from WaveGlow.condition, z (B, G, n_group) already times sigma -> audio (B, G * n_group)"""
    config = model.config
    batch, groups, mel_dim = mel.shape
    width = config.n_channels * (1 if config.separable else config.kernel_size)
    padded = -(-groups // ROWS) * ROWS
    rows = mel.new_zeros(batch, padded, width + mel_dim, dtype=dtype)
    rows[:, :groups, -mel_dim:] = mel
    z = F.pad(z, (0, 0, 0, padded - groups))
    rest, x = z.split((config.n_group - model.last_dim, model.last_dim), 2)  # (B, G, channels)
    flows = cast("list[tuple[WN, InvertibleConv]]", list(zip(model.WN, model.convinv, strict=True)))
    weights = packed_once(
        model, (dtype, model.int8), lambda: [FlowWeights.of(*flow, dtype, model.int8) for flow in flows]
    )
    for k, flow in reversed(list(enumerate(weights))):
        x_a, x_b = x.chunk(2, dim=2)
        log_s, b = coupling(flow, x_a, rows, groups, config)
        x = torch.cat((x_a, ((x_b - b) * (-log_s).exp()).to(x.dtype)), dim=2)
        x = x @ flow.unmix.to(x.dtype)
        if model.leaves_early(k):
            rest, early = rest.split((rest.shape[2] - config.n_early_size, config.n_early_size), 2)
            x = torch.cat((early, x), dim=2)
    return model.samples(x[:, :groups])
