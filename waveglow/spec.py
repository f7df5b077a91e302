"""What checkpoints and commands need to know about WaveGlow."""

from common.spec import ModelSpec
from waveglow import reference
from waveglow.model import WaveGlow, WaveGlowConfig

WAVEGLOW = ModelSpec(
    name="waveglow",
    model_class=WaveGlow,
    config_class=WaveGlowConfig,
    reference=reference,
    meanings=("mdct",),
    not_sizes=("n_mel_channels", "hop_length", "win_length", "match_mel", "overlap"),
    for_synthesis=("sigma", "match_mel", "overlap"),
    renamed_settings={"lapped": "mdct"},
)
