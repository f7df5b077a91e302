"""The output of inference.py for one line of a phrase file: audio and a picture, written while the line is made."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common.config import AudioConfig
from common.errors import UserError, first_line
from common.files import replacing, sync, write_text
from common.wording import counted
from synthesis.audio_file import AUDIO_SUFFIXES, AudioFile, AudioFormat, WavFile, create, encode
from synthesis.loudness import CEILING, LoudnessMeter
from synthesis.reader import Read
from synthesis.reading import Fault, described
from synthesis.sentences import Pauses
from synthesis.subtitles import TIMING_FORMATS, WRITERS, TimingFormat
from synthesis.timings import Word, moved
from synthesis.utterance import Part, Utterance, overview, pause_frames, silence_frames, summed
from tacotron2.text import left_out

SUFFIXES = (*AUDIO_SUFFIXES, ".png", *(f".{name}" for name in TIMING_FORMATS))  # of the files of a line
HEADROOM = 0.5  # factor for samples whose final level is not yet known: loud ones are not clipped
LOUD_SHARE = 1e-4  # of the samples
DRAWN = 4000  # mel frames in a picture; of a longer line, the beginning is drawn


class Advice(NamedTuple):
    """What to do about a line that is not read right."""

    cut_off: str  # if a piece came to its limit
    wrong: str


class Line:
    """The result of one line: its pieces are added to a hidden file, which becomes `path` at the end.

    Memory does not grow with the length of the line, except by the words' times if `timings` asks for files of them.
    `where` names the line in messages.
    """

    def __init__(
        self,
        path: Path,
        where: str,
        text: str,
        audio: AudioConfig,
        pauses: Pauses,
        timings: Sequence[TimingFormat] = (),
        loudness: float | None = None,
    ) -> None:
        self.path, self.where, self.text, self.audio, self.pauses = path, where, text, audio, pauses
        self.kind: AudioFormat = path.suffix.removeprefix(".")  # type: ignore[assignment] # one of AUDIO_SUFFIXES
        # What is scaled at the end is a wav until then.
        self.recorded: AudioFormat = self.kind if loudness is None else "wav"
        self.temporary = path.with_name(f".{path.name}.tmp")
        self.partial = path.with_suffix(f".partial.{self.recorded}")
        self.file: AudioFile | None = None
        self.pause = silence_frames(pauses.lead, audio) * audio.hop_length  # samples, still to be written
        self.loudness = loudness
        self.meter = None if loudness is None else LoudnessMeter(audio.sample_rate)
        self.num_pieces = self.truncated = self.num_loud = 0
        self.faults: list[Fault] = []
        self.dropped: dict[str, None] = {}
        self.timings = timings
        self.words: list[Word] = []
        self.ends: list[int] = []  # of the pieces, in characters
        self.alignments: list[Tensor] = []
        self.stats: list[dict[str, float]] = []

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """If the disk is full in this block, raise a UserError that names what is kept."""
        try:
            yield
        except OSError as error:
            kept = self.keep()
            raise UserError(f"{self.path}: not written ({first_line(error)}); free some space{kept}") from error

    def add(self, part: Part) -> None:
        """Append a piece, after the pause of the one before it, and what follows the last one."""
        if part.read is not None:
            self.dropped.update(dict.fromkeys(part.read.dropped))
            if part.utterance is not None:
                self._append(part.read, part.utterance)
        if part.is_last and self.file is not None:
            self._end(self.file)

    def _append(self, read: Read, utterance: Utterance) -> None:
        self.file = self.file or create(self.temporary, self.recorded, self.audio.sample_rate)
        if self.timings:
            start = (self.file.num_samples + self.pause) / self.audio.sample_rate
            self.words += moved(utterance.words, start)
            self.ends.append(read.piece.end)
        self._write(self.file, torch.nn.functional.pad(utterance.audio, (self.pause, 0)))
        self.pause = pause_frames(read.piece, self.pauses, self.audio) * self.audio.hop_length
        self.num_pieces += 1
        self.truncated += utterance.truncated
        self.faults += utterance.faults
        self.num_loud += int((utterance.audio.abs() > 1).sum())
        if sum(map(len, [*self.alignments, *utterance.alignments])) <= DRAWN or not self.alignments:
            self.alignments += utterance.alignments
        self.stats = [summed([*self.stats, utterance.stats], self.file.num_samples / self.audio.sample_rate)]

    def _write(self, file: AudioFile, audio: Tensor) -> None:
        if self.meter:
            self.meter.add(audio)
            audio = audio * HEADROOM
        file.append(audio)

    def _end(self, file: AudioFile) -> None:
        """Write what follows the last piece, bring the whole to the loudness that was asked for, and close the file."""
        if trail := silence_frames(self.pauses.trail, self.audio) * self.audio.hop_length:
            self._write(file, torch.zeros(trail))
            self.stats = [summed(self.stats, file.num_samples / self.audio.sample_rate)]
        if self.meter and self.loudness is not None and isinstance(file, WavFile):
            gain, reached = self.meter.gain(self.loudness)
            file.scale(gain / HEADROOM)
            if not math.isfinite(reached):
                print(f"{self.where}: {self.path.name} is too short or too quiet to have a loudness; it stays as it is")
            elif reached < self.loudness - 0.1:
                print(
                    f"{self.where}: {self.path.name} has {reached:.1f} LUFS, not {self.loudness}: louder, its true "
                    f"peak would exceed {CEILING:g} dBTP"
                )
        file.close()
        if self.recorded != self.kind:
            encoded = self.path.with_name(f".{self.path.name}.encoded.tmp")
            encode(self.temporary, encoded, self.kind)
            os.replace(encoded, self.temporary)

    def finish(self, advice: Advice, picture: bool = True) -> dict[str, float] | None:
        """Give the files their names and print warnings; return the stats, or None if there was nothing to say."""
        name = self.path.name
        if self.dropped:
            print(f"warning: {self.where}: {left_out(self.dropped)}")
        if self.file is None:
            print(f"warning: {self.where}: nothing to say in {self.text[:60]!r}; {name} is not written")
            return None
        if self.num_pieces > 1:
            print(f"{self.where}: synthesized in {self.num_pieces} pieces into {name}")
        if self.faults:
            cut_off = f"{advice.cut_off}, if it is cut off; " if self.truncated else ""
            print(
                f"warning: {self.where}: {name} is not read right: {described(self.faults)}. Listen to it: "
                f"{cut_off}{advice.wrong}"
            )
        if self.meter is None and self.num_loud > LOUD_SHARE * self.file.num_samples:
            beyond = f"{counted(self.num_loud, 'sample')} beyond full scale"
            print(f"warning: {self.where}: {name} is too loud in places: {beyond}")
        sync(self.temporary)
        os.replace(self.temporary, self.path)
        self.partial.unlink(missing_ok=True)  # of an earlier run
        for name in self.timings:
            write_text(self.path.with_suffix(f".{name}"), WRITERS[name](self.text, self.words, self.ends))
        if picture and self.alignments:
            from common.tracking.plots import alignment_figure  # matplotlib is slow to import

            with replacing(self.path.with_suffix(".png")) as temporary:
                alignment_figure(overview(self.alignments), self.text[:80]).savefig(temporary, dpi=100, format="png")
        sync(self.path.parent)  # the names, before the log says that the line is done
        return self.stats[0]

    def keep(self) -> str:
        """Keep what is written as NAME.partial.wav, or of another format, and return a note about it."""
        if self.file is None or not self.file.num_samples:
            self.discard()
            return ""
        self.file.close()
        os.replace(self.temporary, self.partial)
        return f"; {self.partial.name} has its first {self.file.num_samples / self.audio.sample_rate:.1f} s"

    def discard(self) -> None:
        """Remove what is written."""
        if self.file:
            self.file.close()
        self.temporary.unlink(missing_ok=True)
