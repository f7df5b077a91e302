"""How much context a WaveGlow needs around a chunk of mel, so that its audio equals that of the whole mel."""

from __future__ import annotations

import torch
from torch import Tensor

from waveglow.model import MEL_MEAN, MEL_STD, WaveGlow

TOLERANCE = 2e-5  # of full scale
PROBE_FRAMES, MARGIN = 320, 64  # the probe without MARGIN frames on both sides is compared with the whole
SMOOTH = 21, 9  # frames and bands over which the probe is smoothed: it changes about as fast as speech


@torch.no_grad()
def measure_overlap(model: WaveGlow) -> int:
    """The number of frames beyond which the end of a chunk changes no sample by more than TOLERANCE.

    It is measured on a random mel that is less smooth than speech and louder, so that speech needs less.
    """
    config, device = model.config, next(model.parameters()).device
    generator, groups = torch.Generator().manual_seed(0), config.hop_length // config.n_group
    mel = _probe(config.n_mel_channels, generator).to(device).unsqueeze(0)
    z = torch.randn(1, config.n_group, PROBE_FRAMES * groups, generator=generator).to(device)
    whole = model.infer(mel, z=z)[0].float()
    inner = slice(MARGIN, PROBE_FRAMES - MARGIN)
    cut = model.infer(mel[:, :, inner], z=z[:, :, inner.start * groups : inner.stop * groups])[0].float()
    error = (cut - whole[inner.start * config.hop_length : inner.stop * config.hop_length]).abs()
    error = error.nan_to_num(0.0).view(-1, config.hop_length).amax(1).cpu()  # of each frame
    half = len(error) // 2
    by_distance = torch.maximum(error[:half], error.flip(0)[:half])  # from the nearer end
    far = (by_distance > TOLERANCE).nonzero()
    if not len(far):
        return 0
    distance = int(far[-1]) + 1
    return distance if distance < half else field(model)


def field(model: WaveGlow) -> int:
    """The frames at one side that an output sample can depend on at all."""
    config = model.config
    groups: int = config.n_flows * (config.kernel_size // 2) * (2**config.n_layers - 1) + config.mdct
    mel_frames = config.encoder_layers + 1 if config.encoder_dim else -(-config.win_length // config.hop_length)
    return mel_frames + -(-groups * config.n_group // config.hop_length)


def _probe(num_mels: int, generator: torch.Generator) -> Tensor:
    """A random mel (num_mels, PROBE_FRAMES)."""
    x = torch.randn(1, 1, num_mels, PROBE_FRAMES, generator=generator)
    frames, bands = (torch.hann_window(n + 2)[1:-1] for n in SMOOTH)
    kernel = bands.unsqueeze(1) * frames
    x = torch.nn.functional.conv2d(x, (kernel / kernel.norm())[None, None], padding="same")[0, 0]
    return (MEL_MEAN + MEL_STD * x).clamp(-11.5, 1.5)
