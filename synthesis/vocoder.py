"""Mel to audio, with WaveGlow or with Griffin-Lim, in bounded memory and while the mel still arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Generator, Tensor

from common.audio import GriffinLim
from common.checkpoint import formats
from common.config import AudioConfig
from common.data.mels import audio_differences
from common.device import now
from common.errors import UserError
from common.ops.chunks import Chunked
from common.ops.precision import Precision, autocast
from synthesis.models import MODELS, RUINED, load_checkpoint, not_finite, require_finite
from waveglow.denoiser import Denoiser
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow
from waveglow.overlap import measure_overlap

SpeechPrecision = Literal["fp32", "bf16", "fp16", "int8"]
WEIGHT_BITS = {"fp16": 16, "int8": 8}  # on CPUs, where these are formats of weights alone
EARLY = (32, 512)  # mel frames of WaveGlow's first and later chunks, for audio that is heard while it is made
WHOLE = (1024, 1024)  # otherwise: most sentences at once
NOISE_FRAMES = 16  # frames for which noise is drawn at once: a multiple of what any generator produces together


def computes_in(precision: SpeechPrecision, device: torch.device) -> tuple[Precision, int]:
    """The format in which a model computes, and the bits of its weights. Raises UserError for int8 on a GPU."""
    if device.type == "cpu" and precision in WEIGHT_BITS:
        return "fp32", WEIGHT_BITS[precision]
    if precision == "int8":
        raise UserError(f"precision=int8 is for device=cpu, not for {device.type}; use bf16 or fp16 there")
    return precision, 32


def whole_sizes(num_frames: int) -> tuple[int, int] | None:
    """The `sizes` of Vocoder.stream for a mel that is given at once."""
    return None if num_frames <= WHOLE[0] else WHOLE


def total_latency(stats: dict[str, float]) -> float:
    """Total seconds of the parts that were measured."""
    return sum(value for key, value in stats.items() if key.endswith("_latency"))


class VocoderStream(Protocol):
    """The audio of one utterance."""

    stats: dict[str, float]  # latencies (s) so far

    def feed(self, mel: Tensor) -> Iterator[Tensor]:
        """More frames (n_mels, t) -> parts (N) of the audio, on the CPU, as far as they are determined."""
        ...

    def close(self, mel: Tensor | None = None) -> Iterator[Tensor]:
        """The last frames, if any -> the rest of the audio."""
        ...


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
        self.device = next(waveglow.parameters()).device if waveglow else torch.device("cpu")
        self.precision, bits = computes_in(precision, self.device)
        if waveglow and bits == 8:
            if weight := not_finite(waveglow):  # NaN would become an 8-bit number
                raise UserError(f"{source}: {RUINED.format(weight)}")
            waveglow.int8 = True
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

    @cached_property
    def overlap(self) -> int:
        """Frames of context that WaveGlow needs around a chunk."""
        assert self.waveglow is not None
        return self.waveglow.config.overlap or measure_overlap(self.waveglow)

    def __call__(
        self, mel: Tensor, generator: Generator, sigma: float | None = None, denoiser_strength: float = 0.01
    ) -> tuple[Tensor, dict[str, float]]:
        """mel (n_mels, T) -> audio (T * hop_length) on the CPU, and its latencies and items/s. See `stream`."""
        stream = self.stream(generator, sigma, denoiser_strength, whole_sizes(mel.shape[1]))
        audio = torch.cat(list(stream.close(mel)))
        stats, name = stream.stats, "griffin_lim" if self.waveglow is None else "waveglow"
        return audio, {f"{name}_items_per_sec": len(audio) / stats[f"{name}_latency"], **stats}

    def stream(
        self,
        generator: Generator,
        sigma: float | None = None,
        denoiser_strength: float = 0.01,
        sizes: tuple[int, int] | None = EARLY,
        greedy: bool = False,
    ) -> VocoderStream:
        """The vocoder for one utterance, whose mel may arrive in parts: unless `greedy`, the result does not depend on
        them.

        `sizes` and `greedy` are those of Chunked; they change the audio by about 1e-4 of full scale at most. None: the
        whole mel is given to `close`.

        WaveGlow's noise is drawn from `generator`, which is on its device. Griffin-Lim starts from the generator's
        initial seed, and needs the whole mel before it gives audio. Raises UserError if WaveGlow gives NaN or infinity.
        """
        if self.waveglow is None:
            return _GriffinLimStream(self, generator.initial_seed())

        def chunked(function: Callable[..., Tensor], rates: Sequence[int]) -> Chunked:
            overlap = self.overlap if sizes else 0  # to measure it takes seconds
            return Chunked(function, rates, overlap, sizes, greedy)

        return _WaveGlowStream(self, self.waveglow, generator, (sigma, denoiser_strength), chunked)


class _GriffinLimStream:
    def __init__(self, vocoder: Vocoder, seed: int) -> None:
        self.vocoder, self.seed = vocoder, seed
        self.parts: list[Tensor] = []
        self.stats = {"griffin_lim_latency": 0.0}

    def feed(self, mel: Tensor) -> Iterator[Tensor]:
        self.parts.append(mel)
        return iter(())

    def close(self, mel: Tensor | None = None) -> Iterator[Tensor]:
        self.parts += [] if mel is None else [mel]
        device = self.vocoder.device
        start = now(device)
        audio = self.vocoder.griffin_lim(torch.cat(self.parts, 1), self.seed)
        self.stats["griffin_lim_latency"] = now(device) - start
        yield audio


class _WaveGlowStream:
    """WaveGlow, then its denoiser, then MelMatch, each in chunks."""

    def __init__(
        self, vocoder: Vocoder, waveglow: WaveGlow, generator: Generator, options: tuple[float | None, float],
        chunked: Callable[..., Chunked],
    ) -> None:  # fmt: skip
        config = waveglow.config
        hop, self.groups = config.hop_length, config.hop_length // config.n_group
        self.vocoder, self.waveglow, self.generator = vocoder, waveglow, generator
        self.sigma, self.strength = options
        self.noise = torch.empty(config.n_group, 0, device=vocoder.device)
        self.stats = {"waveglow_latency": 0.0, "denoiser_latency": 0.0}
        self.flow = chunked(self._timed("waveglow", self._flow), (1, self.groups, hop))
        reach = -(-config.win_length // hop)  # a frame's spectrum depends on half a window, and changes half a window
        self.denoise = Chunked(self._timed("denoiser", self._denoise), (hop, hop), reach) if self.strength else None
        self.match: Chunked | None = None
        if passes := vocoder.match_mel:
            reach = passes * -(-vocoder.audio.n_fft // hop)
            self.match = Chunked(self._timed("match", self._match), (1, hop, hop), reach)

    def feed(self, mel: Tensor) -> Iterator[Tensor]:
        yield from self._after_flow(self.flow.feed(*self._inputs(mel)))

    def close(self, mel: Tensor | None = None) -> Iterator[Tensor]:
        yield from self._after_flow(self.flow.close(*(() if mel is None else self._inputs(mel))))
        if self.denoise:
            yield from self._after_denoiser(self.denoise.close())
        if self.match:
            yield from map(self._finished, self.match.close())

    def _inputs(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """The mel and the noise of the next frames."""
        mel = mel.to(self.vocoder.device)
        if self.match:
            for _ in self.match.feed(mel, None):
                raise AssertionError("there is no audio to match yet")
        return mel, self._draw(mel.shape[1])

    def _after_flow(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        for part in parts:
            yield from self._after_denoiser(self.denoise.feed(part) if self.denoise else [part])

    def _after_denoiser(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        for part in parts:
            yield from map(self._finished, self.match.feed(None, part) if self.match else [part])

    def _finished(self, audio: Tensor) -> Tensor:
        audio = audio.cpu()
        require_finite(self.waveglow, self.vocoder.source, audio=audio)
        return audio

    def _draw(self, num_frames: int) -> Tensor:
        """The noise (n_group, num_frames * groups) of the next frames."""
        wanted = num_frames * self.groups
        blocks, drawn = [self.noise], self.noise.shape[1]
        while drawn < wanted:
            shape = self.waveglow.config.n_group, NOISE_FRAMES * self.groups
            blocks.append(torch.randn(shape, device=self.vocoder.device, generator=self.generator))
            drawn += shape[1]
        noise = torch.cat(blocks, 1)
        self.noise = noise[:, wanted:]
        return noise[:, :wanted]

    def _timed(self, name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function`, which adds its time to the stats."""
        key, device = f"{name}_latency", self.vocoder.device
        self.stats[key] = 0.0

        def timed(*inputs: Tensor) -> Tensor:
            start = now(device)
            output = function(*inputs)
            self.stats[key] += now(device) - start
            return output

        return timed

    def _flow(self, mel: Tensor, noise: Tensor) -> Tensor:
        with autocast(self.vocoder.device, self.vocoder.precision):
            return self.waveglow.infer(mel.unsqueeze(0), self.sigma, noise.unsqueeze(0))[0].float()

    def _denoise(self, audio: Tensor) -> Tensor:
        assert self.vocoder.denoiser is not None
        clean: Tensor = self.vocoder.denoiser(audio.unsqueeze(0), self.strength)
        return clean[0]

    def _match(self, mel: Tensor, audio: Tensor) -> Tensor:
        matched: Tensor = self.vocoder.mel_match(mel, audio, self.vocoder.match_mel)
        return matched
