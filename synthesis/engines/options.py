"""The options of the engines, `engine.*` on the command line; conf/engine explains them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from common.errors import UserError
from common.schema import Count, Options, Probability, Range

Attention = Literal["sdpa", "eager"]
Audible = Annotated[float, Range(least=0.1, most=600)]
# Much more than is of use, and little enough that no float becomes infinite.
Temperature = Annotated[float, Range(least=0, most=100)]
Guidance = Annotated[float, Range(above=0, most=100)]


@dataclass(kw_only=True)
class BarkOptions(Options):
    """conf/engine/bark.yaml"""

    section: ClassVar[str] = "engine"

    name: Literal["bark"] = "bark"
    model: str
    voice: str | None = None
    max_characters: Count = 180
    semantic_temperature: Temperature | None = None
    coarse_temperature: Temperature | None = None
    fine_temperature: Temperature | None = None
    min_eos_p: Probability | None = None
    max_semantic_tokens: Count | None = None
    attention: Attention = "sdpa"
    offload: bool = False

    def sources(self) -> dict[str, str | Path]:
        """The files that decide the audio, by the names that messages call them."""
        own = {"engine.voice": self.voice} if self.voice and self.voice.endswith(".npz") else {}
        return {"engine.model": self.model, **own}


@dataclass(kw_only=True)
class AudioLDM2Options(Options):
    """conf/engine/audioldm2.yaml"""

    section: ClassVar[str] = "engine"

    name: Literal["audioldm2"] = "audioldm2"
    model: str
    negative_prompt: str | None = None
    seconds: Audible = 10.24
    num_inference_steps: Count = 200
    guidance_scale: Guidance = 3.5
    scheduler: str | None = None
    num_waveforms_per_prompt: Count = 1
    attention: Attention = "sdpa"
    compile: bool = False
    offload: bool = False

    def sources(self) -> dict[str, str | Path]:
        """The files that decide the audio, by the names that messages call them."""
        return {"engine.model": self.model}


EngineOptions = BarkOptions | AudioLDM2Options


def missing(package: str) -> UserError:
    """The error if a package of the extra is not installed."""
    return UserError(f"the package {package} is not installed; pip install -r requirements-engines.txt")
