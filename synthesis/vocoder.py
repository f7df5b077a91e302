"""Mel to audio, with WaveGlow or with Griffin-Lim."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from common.audio import GriffinLim
from common.checkpoint import formats
from common.config import AudioConfig
from common.data.mels import audio_differences
from common.device import now
from common.errors import UserError
from common.ops.precision import Precision, autocast
from synthesis.models import MODELS, load_checkpoint, require_finite
from waveglow.denoiser import Denoiser
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow

SpeechPrecision = Literal["fp32", "bf16", "fp16", "int8"]
INT8 = "int8"


def total_latency(stats: dict[str, float]) -> float:
    """Total seconds of the parts that were measured."""
    return sum(value for key, value in stats.items() if key.endswith("_latency"))


class Vocoder:
    """WaveGlow with its denoiser and `match_mel` passes of MelMatch (None: the model's own number).

    If `waveglow` is None, the vocoder is Griffin-Lim. Messages call the checkpoint `source`.
    """

    def __init__(
        self,
        waveglow: WaveGlow | None,
        audio: AudioConfig,
        precision: SpeechPrecision = "fp32",
        match_mel: int | None = None,
        source: str = "waveglow",
    ) -> None:
        self.waveglow, self.audio, self.source = waveglow, audio, source
        self.match_mel = waveglow.config.match_mel if waveglow and match_mel is None else match_mel or 0
        self.precision: Precision = "fp32" if precision == "int8" else precision  # int8 is for Tacotron 2's decoder
        self.device = next(waveglow.parameters()).device if waveglow else torch.device("cpu")
        try:
            self.denoiser = Denoiser(waveglow) if waveglow else None
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined] # documented, not exported
            raise UserError(
                f"{source}: an invertible convolution has no inverse, as in a damaged file: use another checkpoint"
            ) from error
        self.mel_match = MelMatch(audio).to(self.device)
        self.griffin_lim = GriffinLim(audio)

    @property
    def name(self) -> str:
        return "griffin_lim" if self.waveglow is None else "waveglow_matched" if self.match_mel else "waveglow"

    @classmethod
    def load(
        cls,
        path: str | Path | None,
        audio: AudioConfig,
        device: torch.device,
        precision: SpeechPrecision = "fp32",
        match_mel: int | None = None,
    ) -> Vocoder:
        """Load from a checkpoint or run directory whose audio config equals `audio`; None stands for Griffin-Lim."""
        if path is None:
            return cls(None, audio, precision)
        checkpoint = load_checkpoint(path, "waveglow")
        if differences := audio_differences(audio, checkpoint.audio, "the WaveGlow's"):
            raise UserError(
                f"waveglow={path} and its input mels cannot be chained: {'; '.join(differences)}; use a WaveGlow with "
                "the audio config of the mels"
            )
        waveglow = formats.build(checkpoint, path, MODELS.values()).to(device)
        assert isinstance(waveglow, WaveGlow)
        return cls(waveglow, audio, precision, match_mel, f"waveglow={path}")

    def __call__(
        self, mel: Tensor, generator: Generator, sigma: float | None = None, denoiser_strength: float = 0.01
    ) -> tuple[Tensor, dict[str, float]]:
        """mel (n_mels, T) -> audio (T * hop_length) on the CPU, and its latencies and items/s.

        WaveGlow's noise is drawn from `generator`, which is on its device. Griffin-Lim starts from the generator's
        initial seed, which is the same for every mel. Raises UserError if WaveGlow gives NaN or infinity.
        """
        start = now(self.device)
        if self.waveglow is None or self.denoiser is None:
            audio = self.griffin_lim(mel, generator.initial_seed())
            seconds = now(self.device) - start
            return audio, {"griffin_lim_items_per_sec": len(audio) / seconds, "griffin_lim_latency": seconds}
        with autocast(self.device, self.precision):
            audio = self.waveglow.infer(mel.unsqueeze(0).to(self.device), sigma, generator=generator).float()
        seconds = now(self.device) - start
        stats = {"waveglow_items_per_sec": audio.shape[1] / seconds, "waveglow_latency": seconds}
        start = now(self.device)
        if denoiser_strength:
            audio = self.denoiser(audio, denoiser_strength)
        stats["denoiser_latency"] = now(self.device) - start
        audio = audio[0]
        if self.match_mel:
            start = now(self.device)
            audio = self.mel_match(mel.to(self.device), audio, self.match_mel)
            stats["match_latency"] = now(self.device) - start
        audio = audio.cpu()
        require_finite(self.waveglow, self.source, audio=audio)
        return audio, stats
