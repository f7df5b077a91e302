"""The options of inference.py, and the share of one of several processes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.device import Device
from common.errors import UserError
from common.schema import Count, Index, NonNegative, Options, Seed
from synthesis.audio_file import AudioFormat
from synthesis.engines.loading import OWN, engine_options
from synthesis.engines.options import EngineOptions
from synthesis.line import Advice
from synthesis.loudness import Loudness, LoudnessMeter
from synthesis.options import SpeechOptions
from synthesis.sentences import Pauses
from synthesis.speed import Speed
from synthesis.subtitles import TimingFormat
from synthesis.vocoder import SpeechPrecision
from synthesis.voices import Voice

NOT_READ_RIGHT = 3  # exit status, if all lines are written, but some are not read right
# Options that change no audio, or only as much as rounding does; the content of the files is compared instead.
NOT_COMPARED = {
    "voice", "tacotron2", "waveglow", "input", "output", "lexicon", "batch_size", "device", "pictures", "overwrite",
    "resume", "shard", "num_shards", "engine.model", "engine.attention", "engine.offload", "engine.compile",
}  # fmt: skip
# Options of Tacotron 2 + WaveGlow, which the other engines do not have.
OWN_ONLY = (
    "voice", "tacotron2", "waveglow", "vocoder", "denoiser_strength", "sigma", "match_mel", "postfilter_strength",
    "max_decoder_steps", "attention_window", "lexicon", "speed", "timings", "speaker",
)  # fmt: skip


@dataclass(kw_only=True)
class InferenceConfig(Options):
    """The keys of conf/inference.yaml, which explains them."""

    input: str
    output: str
    engine: dict[str, Any] = field(default_factory=lambda: {"name": OWN})
    voice: str | None = None
    tacotron2: str | None = None
    waveglow: str | None = None
    speaker: str | None = None
    vocoder: Literal["waveglow", "griffin_lim"] = "waveglow"
    denoiser_strength: NonNegative = 0.01
    sigma: NonNegative | None = None
    match_mel: Index | None = None
    postfilter_strength: NonNegative = 1.0
    batch_size: Count = 1
    max_decoder_steps: Count | None = None
    attempts: Count = 3
    attention_window: Count | None = None
    pauses: Pauses = field(default_factory=Pauses)
    precision: SpeechPrecision = "fp32"
    tf32: bool = True
    device: Device = "auto"
    seed: Seed = 0
    format: AudioFormat = "wav"
    pictures: bool = True
    overwrite: bool = False
    resume: bool = False
    shard: Index | None = None
    num_shards: Count | None = None
    lexicon: str | None = None
    speed: Speed = 1.0
    loudness: Loudness | None = None
    timings: list[TimingFormat] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.other_engine:
            self._refuse_own_options()
        else:
            self._check_models()
        if self.loudness is not None:
            LoudnessMeter(8000)  # if its package is missing, say so at once
        if self.overwrite and self.resume:
            raise UserError("overwrite=true and resume=true: set one of them")
        if (self.shard is None) != (self.num_shards is None):
            raise UserError("shard=K and num_shards=N: set both, or none; torchrun sets them itself")
        if self.shard is not None and self.num_shards is not None and self.shard >= self.num_shards:
            raise UserError(f"shard={self.shard} must be less than num_shards={self.num_shards}; shards count from 0")

    @functools.cached_property
    def other_engine(self) -> EngineOptions | None:
        """The options of the engine; None: Tacotron 2 + WaveGlow."""
        return engine_options(self.engine)

    def _refuse_own_options(self) -> None:
        usual = {option.name: option.default for option in dataclasses.fields(self)} | {"timings": []}
        for name in OWN_ONLY:
            if (value := getattr(self, name)) != usual[name]:
                raise UserError(f"{name}={value}: engine={self.engine['name']} has no such option; leave it out")

    def _check_models(self) -> None:
        if self.voice and (self.tacotron2 or self.waveglow):
            raise UserError(f"voice={self.voice} has its own models; leave tacotron2 and waveglow out")
        if not self.voice and not self.tacotron2:
            raise UserError("no voice: set voice=NAME, or tacotron2=CKPT waveglow=CKPT")
        if self.tacotron2 and self.vocoder == "waveglow" and self.waveglow is None:
            raise UserError("no vocoder: set waveglow=CKPT, or vocoder=griffin_lim, which needs no training")

    @property
    def advice(self) -> Advice:
        """What to do about a phrase that is not read right."""
        if self.other_engine:  # Bark, which cannot make longer pieces; AudioLDM 2 does not read
            return Advice("lower engine.max_characters", "try another seed")
        return Advice("raise max_decoder_steps", "try another seed; a voice in training needs more of it")

    @property
    def speech(self) -> SpeechOptions:
        """How to synthesize each phrase. The loudness is brought about when a phrase is whole."""
        return SpeechOptions(
            self.seed,
            self.sigma,
            self.denoiser_strength,
            self.max_decoder_steps,
            self.attempts,
            self.attention_window,
            self.pauses,
            self.speed,
            speaker=self.speaker,
        )

    @property
    def models(self) -> Voice | str:
        """What Synthesizer.load takes."""
        return Voice.find(self.voice) if self.voice else str(self.tacotron2)

    def compared(self) -> dict[str, Any]:
        """The options that a job must share with the one that it resumes."""
        ignored = NOT_COMPARED if self.other_engine else {*NOT_COMPARED, "engine.name"}
        return {key: value for key, value in flat(dataclasses.asdict(self)).items() if key not in ignored}

    def sources(self) -> dict[str, str | Path]:
        """The files that decide the audio, by the names that messages call them."""
        if self.other_engine:
            return self.other_engine.sources()
        voice = self.models
        found: dict[str, str | Path | None]
        if isinstance(voice, Voice):
            found = {"tacotron2": voice.tacotron2, "waveglow": voice.waveglow, "the voice's lexicon": voice.lexicon}
        else:
            found = {"tacotron2": self.tacotron2, "waveglow": self.waveglow}
        if self.vocoder != "waveglow":
            del found["waveglow"]
        found |= {"lexicon": self.lexicon}
        return {key: path for key, path in found.items() if path is not None}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as a dictionary, with the options of the engine by their names on the command line."""
    engine = {f"engine.{key}": value for key, value in values.get("engine", {}).items()}
    return {key: value for key, value in values.items() if key != "engine"} | engine


class Shard(NamedTuple):
    """The share of one of `total` processes. A share has every `total`-th batch, so that no process must ask others."""

    number: int = 0
    total: int = 1

    @classmethod
    def of(cls, config: InferenceConfig, environment: Mapping[str, str]) -> Shard:
        """As the options say, else as torchrun says in the environment, else all."""
        if config.shard is not None and config.num_shards is not None:
            return cls(config.shard, config.num_shards)
        return cls(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
