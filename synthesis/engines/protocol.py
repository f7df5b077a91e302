"""What inference.py, the server, evaluate.py and the benchmark need of what makes audio of texts.

Tacotron 2 + WaveGlow (`synthesis.synthesizer.Synthesizer`), Bark and AudioLDM 2 have it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Protocol

import torch
from torch import Tensor

from common.config import AudioConfig
from common.errors import UserError
from synthesis.options import SpeechOptions
from synthesis.utterance import Part, Utterance, pause_frames, summed, with_speed

DEFAULT_VOICE = "default"  # that of the engine's options


class UnknownVoiceError(UserError):
    """There is no voice of this name."""


class TextTooLongError(UserError):
    """The model cannot read so long a text, and it cannot be cut."""


class SpeechEngine(Protocol):
    """Makes audio of texts. Several threads may use it at once; some engines then take one after the other."""

    @property
    def name(self) -> str:
        """The engine, such as "bark": a name in conf/engine."""

    @property
    def audio(self) -> AudioConfig:
        """Its sample rate, and the frames that pauses are measured in."""

    def parts(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Part]:
        """Synthesize `texts` in their order, piece by piece, `batch_size` at a time, from the seed in `options`.

        Memory does not grow with the lengths of the texts. Raises UserError for options that the engine does not have.
        """

    def check_length(self, text: str) -> None:
        """Raise a TextTooLongError if the model cannot read so long a text, and it cannot be cut."""

    def warm_up(self) -> None:
        """Synthesize something short, so that the first text does not wait for what is compiled at its first use."""


class VoicedEngine(SpeechEngine, Protocol):
    """An engine of which a server offers several voices."""

    @property
    def voices(self) -> Sequence[str]:
        """The names that `speaking_as` takes; the first is DEFAULT_VOICE."""

    def speaking_as(self, voice: str) -> VoicedEngine:
        """The same models with another voice. Raises UnknownVoiceError, with the names there are."""


def unknown_voice(engine: VoicedEngine, voice: str) -> UnknownVoiceError:
    return UnknownVoiceError(f"voice {voice[:60]!r} is unknown; the voices are: {', '.join(engine.voices)}")


def utterance_of(name: str, audio: Tensor, sample_rate: int, seconds: float, truncated: bool = False) -> Utterance:
    """The result of an engine without mel and alignment: audio (N) on the CPU, which took `seconds` to compute."""
    stats = {
        f"{name}_items_per_sec": len(audio) / seconds,  # samples
        f"{name}_latency": seconds,
        "latency": seconds,
        "audio_seconds": len(audio) / sample_rate,
    }
    return Utterance(audio, torch.empty(0, 0), [], truncated, with_speed(stats))


def whole(engine: SpeechEngine, text: str, options: SpeechOptions) -> Utterance | None:
    """The result for one text, its pieces joined with pauses; None if there is nothing to say."""
    config, spoken = engine.audio, list[Utterance]()
    for part in engine.parts([text], 1, options):
        if part.read and part.utterance:
            pause = pause_frames(part.read.piece, options.pauses, config) * config.hop_length
            audio = torch.nn.functional.pad(part.utterance.audio, (0, pause))
            spoken.append(replace(part.utterance, audio=audio))
    if not spoken:
        return None
    audio, faults = torch.cat([each.audio for each in spoken]), [fault for each in spoken for fault in each.faults]
    stats = summed([each.stats for each in spoken], len(audio) / config.sample_rate)
    return Utterance(audio, torch.empty(0, 0), [], any(each.truncated for each in spoken), stats, faults=faults)


def refuse_options(options: SpeechOptions, known: Collection[str], name: str) -> None:
    """Raise a UserError if an option has another value than its default, and the engine does not have it."""
    default = SpeechOptions()
    for field in fields(SpeechOptions):
        value = getattr(options, field.name)
        if field.name not in known and value != getattr(default, field.name):
            raise UserError(f"{field.name}={value}: engine={name} has no such option; leave it out")
