"""How to synthesize, for every way in."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.schema import Count, NonNegative, Options, Seed
from synthesis.loudness import Loudness
from synthesis.sentences import Pauses
from synthesis.speed import Speed


@dataclass(frozen=True)
class SpeechOptions(Options):
    """How to synthesize. On one device, seed and text determine the audio of a text, whatever else is synthesized."""

    seed: Seed = 0
    sigma: NonNegative | None = None  # standard deviation of WaveGlow's noise; None: the model's own
    denoiser_strength: NonNegative = 0.01  # 0: no denoiser
    max_decoder_steps: Count | None = None  # of a piece; None: the model's own
    attempts: Count = 3  # at a piece that is not read right, and then at smaller ones, see `read_right`
    attention_window: Count | None = None  # symbols ahead that the attention may look at; None: all of the piece
    pauses: Pauses = field(default_factory=Pauses)  # between the pieces of a text
    speed: Speed = 1.0  # 2: twice as fast, with pauses half as long; the pitch stays
    loudness: Loudness | None = None  # LUFS, see LoudnessMeter.gain; None: as the models make it
    speaker: str | None = None  # of a voice with several; None: the one that the Synthesizer was loaded with
