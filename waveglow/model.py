"""WaveGlow: mel spectrogram to audio by a normalizing flow (Prenger et al., 2018, arXiv:1811.00002).

Shapes: B batch, N samples, T mel frames, G = N / n_group groups, C channels of a flow. Internally, channels come last:
the 1x1 convolutions are products of (B, G, channels), and the other convolutions are fastest in this layout. Module
names follow the reference implementation, so that its weights load by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import UserError
from common.ops.packed import packed_once
from common.ops.precision import compute_dtype
from common.schema import Count, Index, NonNegative, Options
from common.wording import counted
from waveglow.gate import Gate
from waveglow.inverse_cpu import invert
from waveglow.mdct import inverse_mdct, mdct


@dataclass(frozen=True)
class WaveGlowConfig(Options):
    """The defaults are the reference's model with 512 channels. conf/model/waveglow.yaml explains the fields."""

    section: ClassVar[str] = "model"

    n_mel_channels: Count = 80
    hop_length: Count = 256
    win_length: Count = 1024
    n_flows: Count = 12
    n_group: Count = 8
    n_early_every: Count = 4
    n_early_size: Count = 2
    n_layers: Count = 8
    n_channels: Count = 512
    kernel_size: Count = 3
    sigma: NonNegative = 0.9
    separable: bool = False
    encoder_dim: Index = 0
    encoder_layers: Count = 3
    mdct: bool = False
    match_mel: Index = 0
    overlap: Index = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        left = self.n_group - (self.n_flows - 1) // self.n_early_every * self.n_early_size
        if self.n_group % 2 or self.n_early_size % 2 or left < 2:
            raise UserError(
                f"model.n_group={self.n_group}, n_early_size={self.n_early_size}, n_early_every={self.n_early_every}, "
                f"n_flows={self.n_flows} leave {counted(left, 'channel')} for the last flow; n_group and n_early_size "
                "must be even and leave 2 or more"
            )
        if self.hop_length % self.n_group:
            raise UserError(f"model.n_group={self.n_group} must divide the hop length, {self.hop_length}")
        if self.kernel_size % 2 == 0:
            raise UserError(f"model.kernel_size={self.kernel_size} must be odd, to keep the length")
        if self.win_length < self.hop_length:
            raise UserError(f"model.win_length={self.win_length} is shorter than hop_length={self.hop_length}")


class WaveGlowOutput(NamedTuple):
    """The latent, the log-determinants of the Jacobian, and audio if noise was given."""

    z: Tensor  # (B, n_group, G), early outputs first
    log_s: list[Tensor]  # of each flow (B, C / 2, G)
    log_det: list[Tensor]  # of each flow's 1x1 convolution: B * G * log |det W|, scalar
    synthesized: Tensor | None = None  # (B, N) the inverse of the flow for the noise


ENCODER_WIDTH = 128
TAPS_STD = 0.3  # initial deviation of separable filters from the identity
MEL_MEAN, MEL_STD = -5.0, 2.3  # roughly those of log-mels of speech
Filters = tuple[Tensor, Tensor]  # weight (out_dim, in_dim, kernel) and bias (out_dim) of a convolution


class WNWeights(NamedTuple):
    """The weights of a WN with weight norm applied."""

    start: Filters
    conditions: Filters  # of all layers together
    in_layers: list[Filters]
    res_skip: list[Filters]
    end: Filters
    taps: list[Tensor]  # (kernel, n_channels) of each layer, if the model is separable

    def to(self, dtype: torch.dtype) -> WNWeights:
        def cast(filters: Filters) -> Filters:
            return filters[0].to(dtype), filters[1].to(dtype)

        in_layers, res_skip = ([cast(filters) for filters in layers] for layers in (self.in_layers, self.res_skip))
        taps = [tap.to(dtype) for tap in self.taps]
        return WNWeights(cast(self.start), cast(self.conditions), in_layers, res_skip, cast(self.end), taps)


class WeightNormConv(nn.Module):
    """The parameters of a 1-d convolution with weight = g * v / |v| (Salimans and Kingma, 2016, eq. 2)."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int = 1) -> None:
        super().__init__()
        conv = nn.Conv1d(in_dim, out_dim, kernel_size)
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach())
        weight = conv.weight.detach()  # (out, in, kernel)
        # On the meta device PyTorch imports its compiler for a norm, which takes a second.
        norm = weight.new_empty(out_dim, 1, 1) if weight.is_meta else weight.norm(dim=(1, 2), keepdim=True)
        self.weight_g = nn.Parameter(norm)  # (out, 1, 1)
        self.weight_v = nn.Parameter(weight)

    def weight(self) -> Tensor:
        """(out_dim, in_dim, kernel)"""
        return torch._weight_norm(self.weight_v, self.weight_g, 0)


def depthwise(x: Tensor, taps: Tensor, dilation: int) -> Tensor:
    """Apply one filter per channel: x (B, G, n_channels), taps (kernel, n_channels) -> (B, G, n_channels)"""
    reach, groups, taps = dilation * (len(taps) // 2), x.shape[1], taps.to(x.dtype)
    padded = F.pad(x, (0, 0, reach, reach))
    y = padded[:, :groups] * taps[0]
    for k in range(1, len(taps)):
        y = torch.addcmul(y, padded[:, k * dilation : k * dilation + groups], taps[k])
    return y


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    """x (B, G, in_dim), weight (out_dim, in_dim, kernel) -> (B, G, out_dim)"""
    if weight.shape[2] == 1:
        return F.linear(x, weight.squeeze(2), bias)
    # An image of one row, channels last. The format is explicit: PyTorch would choose another for a single channel.
    image = x.transpose(1, 2).unsqueeze(2).contiguous(memory_format=torch.channels_last)
    padding = dilation * (weight.shape[2] // 2)
    y = F.conv2d(image, weight.unsqueeze(2), bias, padding=(0, padding), dilation=(1, dilation))
    return y.squeeze(2).transpose(1, 2).contiguous()


class WN(nn.Module):
    """The coupling's network: dilated, gated convolutions conditioned on the mel (the paper's WN)."""

    def __init__(self, config: WaveGlowConfig, in_dim: int) -> None:
        super().__init__()
        channels, mel_dim = config.n_channels, config.encoder_dim or config.n_mel_channels * config.n_group
        kernel_size = 1 if config.separable else config.kernel_size
        # The reference's order: an optimizer's state refers to parameters by their number.
        self.in_layers = nn.ModuleList(
            WeightNormConv(channels, 2 * channels, kernel_size) for _ in range(config.n_layers)
        )
        # The last layer has no successor: all of its output is skip.
        self.res_skip_layers = nn.ModuleList(
            WeightNormConv(channels, channels if i == config.n_layers - 1 else 2 * channels)
            for i in range(config.n_layers)
        )
        self.cond_layers = nn.ModuleList(WeightNormConv(mel_dim, 2 * channels) for _ in range(config.n_layers))
        self.start = WeightNormConv(in_dim, channels)
        self.taps = nn.ParameterList()
        for _ in range(config.n_layers if config.separable else 0):
            taps = torch.empty(config.kernel_size, channels).normal_(std=TAPS_STD)
            taps[config.kernel_size // 2] += 1  # near the identity
            self.taps.append(taps)
        self.end = nn.Conv1d(channels, 2 * in_dim, 1)
        nn.init.zeros_(self.end.weight)  # every coupling starts as the identity
        assert self.end.bias is not None
        nn.init.zeros_(self.end.bias)

    def weights(self) -> WNWeights:
        def folded(*layers: nn.Module) -> list[Filters]:
            return [(layer.weight(), layer.bias) for layer in cast(tuple[WeightNormConv, ...], layers)]

        conditions = folded(*self.cond_layers)
        return WNWeights(
            start=folded(self.start)[0],
            conditions=(torch.cat([weight for weight, _ in conditions]), torch.cat([bias for _, bias in conditions])),
            in_layers=folded(*self.in_layers),
            res_skip=folded(*self.res_skip_layers),
            end=(self.end.weight, cast(Tensor, self.end.bias)),
            taps=list(self.taps),
        )

    def forward(self, x: Tensor, mel: Tensor, weights: WNWeights | None = None) -> tuple[Tensor, Tensor]:
        """x (B, G, C / 2), mel (B, G, its channels) -> log_s, b, each (B, G, C / 2) in float32"""
        weights = weights or self.weights()
        conditions = self._conditions(mel, weights)
        x = convolve(x, *weights.start)
        skip = torch.zeros_like(x)
        for i, (in_layer, res_skip) in enumerate(zip(weights.in_layers, weights.res_skip, strict=True)):
            mixed = depthwise(x, weights.taps[i], 2**i) if weights.taps else x
            gates = convolve(mixed, *in_layer, dilation=2**i).flatten(0, 1)
            out = convolve(Gate.apply(gates, next(conditions)).view_as(x), *res_skip)
            if i == len(weights.in_layers) - 1:
                skip = skip + out
            else:
                residual, layer_skip = out.chunk(2, dim=2)
                x, skip = x + residual, skip + layer_skip
        b, log_s = convolve(skip, *weights.end).float().chunk(2, dim=2)  # half precision would overflow in exp(log_s)
        return log_s, b

    @staticmethod
    def _conditions(mel: Tensor, weights: WNWeights) -> Iterator[Tensor]:
        """Yield the mel's part of each layer's gates (B * G, 2 * n_channels): from one product in training, one by one
        in synthesis, where all of them would need much memory for a long text."""
        layers = len(weights.in_layers)
        if torch.is_grad_enabled():
            yield from convolve(mel, *weights.conditions).flatten(0, 1).chunk(layers, 1)
        else:
            for weight, bias in zip(*(part.chunk(layers) for part in weights.conditions), strict=True):
                yield convolve(mel, weight, bias).flatten(0, 1)


class MelEncoder(nn.Module):
    """Residual convolutions over the mel's frames, then one vector for each group of samples in a frame."""

    def __init__(self, config: WaveGlowConfig) -> None:
        super().__init__()
        self.groups_per_frame = config.hop_length // config.n_group
        width = ENCODER_WIDTH
        self.start = nn.Conv1d(config.n_mel_channels, width, 5, padding=2)
        self.layers = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(config.encoder_layers - 1))
        self.end = nn.Conv1d(width, config.encoder_dim * self.groups_per_frame, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """mel (B, n_mels, T) -> (B, T * groups_per_frame, encoder_dim)"""
        x: Tensor = self.start((mel - MEL_MEAN) / MEL_STD)
        for layer in self.layers:
            x = x + layer(F.gelu(x))
        x = self.end(F.gelu(x))
        x = x.unflatten(1, (-1, self.groups_per_frame))
        return x.permute(0, 3, 2, 1).flatten(1, 2)


class InvertibleConv(nn.Module):
    """The invertible 1x1 convolution of the paper, which mixes the channels before each coupling."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, 1, bias=False)
        if self.conv.weight.is_meta:
            return
        rotation = torch.linalg.qr(torch.randn(dim, dim))[0]
        rotation[:, 0] *= torch.linalg.slogdet(rotation)[0]  # no reflection: the determinant is 1
        self.conv.weight = nn.Parameter(rotation.contiguous().unsqueeze(2))  # QR gives columns

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, G, C) -> W x, log |det W| (scalar, float32)"""
        weight = self.conv.weight.squeeze(2)
        # The determinant may become negative in training; only its magnitude counts.
        return self._mix(x, weight), torch.linalg.slogdet(weight.float())[1]

    def inverse(self, x: Tensor) -> Tensor:
        """W^-1 x"""
        return self._mix(x, self.inverse_weight())

    def inverse_weight(self) -> Tensor:
        """W^-1 (C, C), computed at each call and so never stale: it is cheap for at most a few hundred channels."""
        inverse: Tensor = torch.linalg.inv(self.conv.weight.squeeze(2).float())
        return inverse

    @staticmethod
    def _mix(x: Tensor, weight: Tensor) -> Tensor:
        """weight @ x in the precision of x, also under autocast: the inverse would amplify rounding errors."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x, weight.to(x.dtype))


class WaveGlow(nn.Module):
    """The whole model: forward for training (audio to z), infer for synthesis (z to audio)."""

    packed = True  # infer applies weight norm once and uses inverse_cpu.py on a CPU; False: computes as forward does
    int8 = False  # the inverse on a CPU with 8-bit weights
    checkpoint_activations = False  # in training: recompute activations in the backward pass instead of storing them

    def __init__(self, config: WaveGlowConfig) -> None:
        super().__init__()
        self.config = config
        if config.encoder_dim:
            self.encoder = MelEncoder(config)
        else:
            mels = config.n_mel_channels
            self.upsample = nn.ConvTranspose1d(mels, mels, config.win_length, stride=config.hop_length)
        early = [self.leaves_early(k) for k in range(config.n_flows)]
        dims = [config.n_group - config.n_early_size * sum(early[: k + 1]) for k in range(config.n_flows)]
        # WN before convinv, the order of the reference's parameters
        self.WN = nn.ModuleList(WN(config, dim // 2) for dim in dims)
        self.last_dim = dims[-1]  # channels of the last flow
        self.convinv = nn.ModuleList(InvertibleConv(dim) for dim in dims)

    def _flows(self) -> list[tuple[InvertibleConv, WN]]:
        return cast(list[tuple[InvertibleConv, WN]], list(zip(self.convinv, self.WN, strict=True)))

    def leaves_early(self, flow: int) -> bool:
        """True if n_early_size channels go to z right before this flow (the paper's early outputs)."""
        return flow > 0 and flow % self.config.n_early_every == 0

    def condition(self, mel: Tensor, num_samples: int) -> Tensor:
        """mel (B, n_mels, T) -> the conditioning of the flows for `num_samples`: (B, G, encoder_dim), or the mel
        upsampled and grouped, (B, G, n_mels * n_group)"""
        if self.config.encoder_dim:
            encoded: Tensor = self.encoder(mel)
            return encoded[:, : num_samples // self.config.n_group]
        upsampled: Tensor = self.upsample(mel)[:, :, :num_samples]
        upsampled = upsampled.unflatten(2, (-1, self.config.n_group))
        return upsampled.transpose(1, 2).flatten(2)

    def forward(self, mel: Tensor, audio: Tensor, noise: Tensor | None = None) -> WaveGlowOutput:
        """mel (B, n_mels, T), audio (B, N) in [-1, 1], N a multiple of n_group and at most T * hop_length.

        Given noise (B, n_group, N / n_group), the inverse of the flow also synthesizes audio, for a loss on that audio.
        """
        config = self.config
        batch, num_samples = audio.shape
        if num_samples % config.n_group or num_samples > mel.shape[2] * config.hop_length:
            raise ValueError(
                f"audio of {counted(num_samples, 'sample')} for {counted(mel.shape[2], 'mel frame')}: need a multiple "
                f"of {config.n_group}, at most {mel.shape[2] * config.hop_length}"
            )
        mel = self.condition(mel, num_samples)
        x = audio.unflatten(1, (-1, config.n_group))  # (B, G, n_group)
        if config.mdct:
            x = mdct(x)
        z, log_s, log_det = [], [], []
        for k, (convinv, wn) in enumerate(self._flows()):
            if self.leaves_early(k):
                z.append(x[..., : config.n_early_size])
                x = x[..., config.n_early_size :]
            x, log_det_w = convinv(x)
            x_a, x_b = x.chunk(2, dim=2)
            flow_log_s, b = self._coupling(wn, x_a, mel)
            x = torch.cat((x_a, torch.addcmul(b, x_b, flow_log_s.exp()).to(x.dtype)), dim=2)  # the affine coupling
            log_s.append(flow_log_s.transpose(1, 2))
            log_det.append(batch * x.shape[1] * log_det_w)
        synthesized = None if noise is None else self._invert(mel, noise.transpose(1, 2))
        return WaveGlowOutput(torch.cat((*z, x), dim=2).transpose(1, 2), log_s, log_det, synthesized)

    def _coupling(self, wn: WN, x: Tensor, mel: Tensor, weights: WNWeights | None = None) -> tuple[Tensor, Tensor]:
        if self.checkpoint_activations and torch.is_grad_enabled():
            log_s, b = checkpoint(wn, x, mel, weights, use_reentrant=False, preserve_rng_state=False)
        else:
            log_s, b = wn(x, mel, weights)
        return log_s, b

    @torch.no_grad()
    def infer(
        self,
        mel: Tensor,
        sigma: float | None = None,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """mel (B, n_mels, T) -> audio (B, T * hop_length): the inverse of the flow for sigma * z.

        sigma defaults to the config's. By default z (B, n_group, G) is drawn from a standard normal distribution, with
        `generator` or PyTorch's global generator.
        """
        config = self.config
        sigma = config.sigma if sigma is None else sigma
        num_samples = mel.shape[2] * config.hop_length
        if z is None:
            shape = mel.shape[0], config.n_group, num_samples // config.n_group
            z = torch.randn(shape, device=mel.device, generator=generator)
        mel = self.condition(mel, num_samples)
        z = z.to(next(self.parameters()).dtype).transpose(1, 2) * sigma  # (B, G, n_group)
        if self.packed and mel.device.type == "cpu" and z.dtype == torch.float32:
            autocasts = torch.is_autocast_enabled("cpu")
            with torch.autocast("cpu", enabled=False):
                return invert(self, mel, z, torch.get_autocast_dtype("cpu") if autocasts else mel.dtype)
        if not self.packed:
            return self._invert(mel, z)
        dtype, flows = compute_dtype(mel), self._flows()
        folded = packed_once(self, ("folded", dtype), lambda: [wn.weights().to(dtype) for _, wn in flows])
        return self._invert(mel, z, folded)

    def _invert(self, mel: Tensor, z: Tensor, weights: list[WNWeights] | None = None) -> Tensor:
        """The inverse, with the convolutions of forward: mel (B, G, its channels), z (B, G, n_group) -> audio (B, N)"""
        config = self.config
        rest, x = z.split((config.n_group - self.last_dim, self.last_dim), 2)
        for k, (convinv, wn) in reversed(list(enumerate(self._flows()))):
            x_a, x_b = x.chunk(2, dim=2)
            log_s, b = self._coupling(wn, x_a, mel, weights[k] if weights else None)
            x = torch.cat((x_a, ((x_b - b) * (-log_s).exp()).to(x.dtype)), dim=2)
            x = convinv.inverse(x)
            if self.leaves_early(k):
                rest, early = rest.split((rest.shape[2] - config.n_early_size, config.n_early_size), 2)
                x = torch.cat((early, x), dim=2)
        return self.samples(x)

    def samples(self, x: Tensor) -> Tensor:
        """The input of the first flow (B, G, n_group) as audio (B, N)"""
        return (inverse_mdct(x) if self.config.mdct else x).flatten(1)
