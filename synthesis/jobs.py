"""The options and the output of inference.py: one wav and one picture for each phrase, and a log."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.config import AudioConfig
from common.device import Device
from common.errors import UserError
from common.files import make_directory, read_json_lines, refuse_existing, writing
from common.lock import locked
from common.schema import Count, Index, NonNegative, Options, Seed
from common.tracking.jsonl import JsonLines
from common.wording import counted
from synthesis.line import SUFFIXES, Line
from synthesis.loudness import Loudness, LoudnessMeter
from synthesis.sentences import Pauses
from synthesis.speed import Speed
from synthesis.subtitles import TimingFormat
from synthesis.synthesizer import Part
from synthesis.vocoder import SpeechPrecision
from synthesis.voices import Voice

NOT_READ_RIGHT = 3  # exit status, if all lines are written, but some are not read right


@dataclass(kw_only=True)
class InferenceConfig(Options):
    """The keys of conf/inference.yaml, which explains them."""

    input: str
    output: str
    voice: str | None = None
    tacotron2: str | None = None
    waveglow: str | None = None
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
    overwrite: bool = False
    lexicon: str | None = None
    speed: Speed = 1.0
    loudness: Loudness | None = None
    timings: list[TimingFormat] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.voice and (self.tacotron2 or self.waveglow):
            raise UserError(f"voice={self.voice} has its own models; leave tacotron2 and waveglow out")
        if not self.voice and not self.tacotron2:
            raise UserError("no voice: set voice=NAME, or tacotron2=CKPT waveglow=CKPT")
        if self.tacotron2 and self.vocoder == "waveglow" and self.waveglow is None:
            raise UserError("no vocoder: set waveglow=CKPT, or vocoder=griffin_lim, which needs no training")
        if self.loudness is not None:
            LoudnessMeter(8000)  # if its package is missing, say so at once

    @property
    def models(self) -> Voice | str:
        """What Synthesizer.load takes."""
        return Voice.find(self.voice) if self.voice else str(self.tacotron2)


def refuse_earlier(config: InferenceConfig, num_lines: int) -> None:
    """Raise a UserError if the output has files of an earlier run, and the user has not said to overwrite them."""
    if not config.overwrite:
        names = (Path(config.output) / f"{i:04d}{suffix}" for i in range(num_lines) for suffix in SUFFIXES)
        refuse_existing(names, "choose another output=DIR or set overwrite=true")


class Job:
    """Writes the results of a phrase file: 0000.wav and 0000.png for the first line, and so on, and log.jsonl."""

    def __init__(self, config: InferenceConfig, lines: list[tuple[int, str]], audio: AudioConfig) -> None:
        self.config, self.lines, self.audio, self.output = config, lines, audio, Path(config.output)
        self.line: Line | None = None  # that is being written
        self.log_path = self.output / "log.jsonl"
        self.seconds = self.audio_seconds = 0.0
        self.num_wrong = 0  # lines that are not read right
        self.earlier: list[Path] = []  # files of earlier runs, still to be removed

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the output directory, which only one process may write to, and the log in it."""
        make_directory(self.output, "output")
        with locked(self.output, "output"):
            refuse_earlier(self.config, len(self.lines))  # another process may have written some since
            self.earlier = self._of_earlier_runs() if self.config.overwrite else []
            with writing(self.log_path):
                self.log = JsonLines(self.log_path)
            self._log(config=dataclasses.asdict(self.config))
            try:
                yield
            except UserError:  # such as NaN from the model: the line is not worth keeping
                if self.line and self.line.temporary.exists():
                    self.line.discard()
                raise
            except BaseException:
                if self.line:
                    self.line.keep()
                raise
            self._summarize()

    def _of_earlier_runs(self) -> list[Path]:
        """The files that earlier runs wrote, by their log. A warning names other files that look like them."""
        rows = read_json_lines(self.log_path) if self.log_path.is_file() else []
        stems = {name[:-4] for row in rows if re.fullmatch(r"\d{4,}\.wav", name := str(row.get("file")))}
        known = stems.union(f"{i:04d}" for i in range(len(self.lines)))
        alike = (
            path for path in self.output.iterdir() if re.fullmatch(r"\d{4,}", path.stem) and path.suffix in SUFFIXES
        )
        if others := sorted(path.name for path in alike if path.stem not in known):
            print(f"warning: {self.output}: {', '.join(others)} are not of this run; log.jsonl does not list them")
        return [self.output / f"{stem}{suffix}" for stem in sorted(stems) for suffix in SUFFIXES]

    def _remove_earlier(self) -> None:
        removed = [path for path in self.earlier if path.exists()]
        for path in removed:
            path.unlink()
        if removed:
            print(f"{self.output}: removed {counted(len(removed), 'file')} of earlier runs")
        self.earlier = []

    def _log(self, **values: Any) -> None:
        with writing(self.log_path):
            self.log.write(**values)

    def write(self, part: Part) -> None:
        """Add a piece to the result of its line, and finish the line with its last piece."""
        if self.line is None:
            number, text = self.lines[part.number]
            where = f"{self.config.input}:{number}"
            path = self.output / f"{part.number:04d}.wav"
            pauses = self.config.pauses.at(self.config.speed)
            self.line = Line(path, where, text, self.audio, pauses, self.config.timings, self.config.loudness)
        with self.line.keeping():
            self.line.add(part)
        if part.is_last:
            self._finish(self.line, self.lines[part.number][0])
            self.line = None

    def _finish(self, line: Line, number: int) -> None:
        self._remove_earlier()  # only now, when there is something in their place
        stats = line.finish()
        if stats is None:
            return
        self.num_wrong += bool(line.faults)
        self._log(
            file=line.path.name,
            line=number,
            text=line.text,
            pieces=line.num_pieces,
            truncated=line.truncated > 0,
            faults=[{"kind": fault.kind, "words": fault.words} for fault in line.faults],
            **stats,
        )
        self.seconds += stats["latency"]
        self.audio_seconds += stats["audio_seconds"]
        speeds = "  ".join(
            f"{key.removesuffix('_items_per_sec')} {value:,.0f} items/s"
            for key, value in stats.items()
            if key.endswith("_items_per_sec")
        )
        print(
            f"{line.path}  {stats['audio_seconds']:.2f} s  {speeds}  RTF {stats['rtf']:.3f} "
            f"({stats['times_real_time']:.2f} x real time)",
            flush=True,
        )

    def _summarize(self) -> None:
        if self.audio_seconds:
            rtf = self.seconds / self.audio_seconds
            print(f"total {self.audio_seconds:.2f} s of speech, RTF {rtf:.3f} ({1 / rtf:.2f} x real time)")
        if self.num_wrong:
            print(f"{counted(self.num_wrong, 'line')} not read right, see the warnings and {self.log_path}", flush=True)
