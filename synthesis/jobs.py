"""The options and the output of inference.py: one wav and one picture for each phrase, and a log."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.audio import save_audio
from common.device import Device
from common.errors import UserError
from common.files import make_directory, refuse_existing
from common.schema import Count, Index, NonNegative, Options, Seed
from common.tracking.jsonl import JsonLines
from synthesis.sentences import CUT_OFF
from synthesis.synthesizer import Synthesizer, Utterance
from synthesis.vocoder import SpeechPrecision


@dataclass(kw_only=True)
class InferenceConfig(Options):
    """The keys of conf/inference.yaml, which explains them."""

    tacotron2: str
    input: str
    output: str
    waveglow: str | None = None
    vocoder: Literal["waveglow", "griffin_lim"] = "waveglow"
    denoiser_strength: NonNegative = 0.01
    sigma: NonNegative | None = None
    match_mel: Index | None = None
    postfilter_strength: NonNegative = 1.0
    batch_size: Count = 1
    max_decoder_steps: Count | None = None
    precision: SpeechPrecision = "fp32"
    tf32: bool = True
    device: Device = "auto"
    seed: Seed = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocoder == "waveglow" and self.waveglow is None:
            raise UserError("no vocoder: set waveglow=CKPT, or vocoder=griffin_lim, which needs no training")


class Job:
    """Writes the results of a phrase file: 0000.wav and 0000.png for the first line, and so on, and log.jsonl."""

    def __init__(self, config: InferenceConfig, lines: list[tuple[int, str]]) -> None:
        self.config, self.lines, self.output = config, lines, Path(config.output)
        self.seconds = self.audio_seconds = 0.0
        if not config.overwrite:
            names = [self.output / f"{i:04d}{suffix}" for i in range(len(lines)) for suffix in (".wav", ".png")]
            refuse_existing(names, "choose another output=DIR or set overwrite=true")

    def open(self) -> None:
        make_directory(self.output, "output")
        self.log = JsonLines(self.output / "log.jsonl")
        self.log.write(config=dataclasses.asdict(self.config))

    def write(self, index: int, utterance: Utterance | None, voice: Synthesizer) -> None:
        """Write the result of `self.lines[index]`, and print warnings about it."""
        number, text = self.lines[index]
        name, where = f"{index:04d}.wav", f"{self.config.input}:{number}"
        if dropped := voice.dropped(text):
            print(f"warning: {where}: left out, because the model has no symbol for them: {' '.join(dropped)}")
        if utterance is None:
            print(f"warning: {where}: nothing to say in {text[:60]!r}; {name} is not written")
            return
        if utterance.num_pieces > 1:
            print(f"{where}: a long line, synthesized in {utterance.num_pieces} pieces into {name}")
        if utterance.truncated:
            print(f"warning: {where}: {CUT_OFF.format(name, 'max_decoder_steps')}")
        from common.tracking.plots import alignment_figure  # matplotlib is slow to import

        save_audio(self.output / name, utterance.audio, voice.audio.sample_rate)
        alignment_figure(utterance.alignment, text[:80]).savefig(self.output / f"{index:04d}.png", dpi=100)
        stats = utterance.stats
        self.log.write(file=name, line=number, text=text, truncated=utterance.truncated, **stats)
        self.seconds += stats["latency"]
        self.audio_seconds += stats["audio_seconds"]
        speeds = "  ".join(
            f"{key.removesuffix('_items_per_sec')} {value:,.0f} items/s"
            for key, value in stats.items()
            if key.endswith("_items_per_sec")
        )
        print(
            f"{self.output / name}  {stats['audio_seconds']:.2f} s  {speeds}  RTF {stats['rtf']:.3f} "
            f"({stats['times_real_time']:.2f} x real time)",
            flush=True,
        )

    def close(self) -> None:
        if self.audio_seconds:
            rtf = self.seconds / self.audio_seconds
            print(f"total {self.audio_seconds:.2f} s of speech, RTF {rtf:.3f} ({1 / rtf:.2f} x real time)")
