"""The result of synthesis for one text, and how it is joined from those of its pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import AudioConfig
from synthesis.reader import Read, Reader
from synthesis.reading import Fault
from synthesis.sentences import Pauses, Piece
from synthesis.timings import Word, piece_words


class Spoken(NamedTuple):
    """A piece of a text, and its place in the audio."""

    piece: Piece
    start: int  # samples
    end: int


@dataclass
class Utterance:
    """The result for one text."""

    audio: Tensor  # (N) on the CPU
    mel: Tensor  # (n_mels, T); (0, 0) of an engine without one
    alignments: list[Tensor]  # of each piece: (T, L); see `alignment`; none of an engine without one
    truncated: bool  # the decoder did not stop by itself, in one of the pieces
    stats: dict[str, float]  # latencies (s) and items/s under the reference's log keys, audio_seconds, rtf and inverse
    dropped: list[str] = field(default_factory=list)  # parts of the text that the model has no symbol for, each once
    pieces: list[Spoken] = field(default_factory=list)  # sentences, and clauses of long ones
    faults: list[Fault] = field(default_factory=list)  # what is wrong after all attempts, see reading.py
    ids: list[int] = field(default_factory=list)  # (L) the symbols of the pieces, with a space between two
    reads: list[Read] = field(default_factory=list, repr=False)  # what the model read for each of the pieces
    reader: Reader | None = field(default=None, repr=False)
    audio_config: AudioConfig = field(default_factory=AudioConfig, repr=False)

    @property
    def num_pieces(self) -> int:
        return len(self.pieces)

    @property
    def alignment(self) -> Tensor:
        """(T, L); during a pause it is at the space. Its size is quadratic in the length of the text."""
        whole: Tensor = torch.block_diag(*self.alignments)
        return whole

    @cached_property
    def words(self) -> list[Word]:
        """When each written word is heard, computed when it is first asked for; see `piece_words`."""
        assert self.reader is not None, "only an utterance of a whole text has words"
        words, config = [], self.audio_config
        lead = self.pieces[0].start // config.hop_length
        aligned = [self.alignments[0][lead:], *self.alignments[1:]]
        for spoken, read, alignment in zip(self.pieces, self.reads, aligned, strict=True):
            first, end = spoken.start // config.hop_length, spoken.end // config.hop_length
            rows, mel = alignment[: end - first, : len(read.ids)], self.mel[:, first:end]
            words += piece_words(self.reader, read, rows, mel, config, spoken.start / config.sample_rate)
        return words

    def of_piece(self, read: Read, reader: Reader, audio: AudioConfig) -> None:
        """Note what this utterance of one piece reads, for `words`."""
        self.pieces, self.ids, self.reads = [Spoken(read.piece, 0, len(self.audio))], read.ids, [read]
        self.reader, self.audio_config = reader, audio

    @classmethod
    def joined(
        cls, parts: Sequence[tuple[Read, Utterance]], pauses: Pauses, audio: AudioConfig, reader: Reader
    ) -> Utterance:
        """Join the pieces of one text, with pauses of whole frames between and around them."""
        space = reader.symbols.index(" ") if " " in reader.symbols else 0
        reads, utterances = zip(*parts, strict=True)
        frames = [pause_frames(read.piece, pauses, audio) for read in reads]
        lead, frames[-1] = silence_frames(pauses.lead, audio), silence_frames(pauses.trail, audio)
        spoken, at = [], lead * audio.hop_length
        for utterance, read, num_frames in zip(utterances, reads, frames, strict=True):
            spoken.append(Spoken(read.piece, at, at + len(utterance.audio)))
            at += len(utterance.audio) + num_frames * audio.hop_length
        floor = math.log(audio.log_floor)
        samples = [F.pad(u.audio, (0, n * audio.hop_length)) for u, n in zip(utterances, frames, strict=True)]
        mels = [F.pad(u.mel, (0, n), value=floor) for u, n in zip(utterances, frames, strict=True)]
        alignments = [_with_space(u.alignments[0], n) for u, n in zip(utterances[:-1], frames[:-1], strict=True)]
        alignments.append(_at_end(utterances[-1].alignments[0], frames[-1]))
        alignments[0] = _at_end(alignments[0].flip(0, 1), lead).flip(0, 1)
        return cls(
            audio=F.pad(torch.cat(samples), (lead * audio.hop_length, 0)),
            mel=F.pad(torch.cat(mels, 1), (lead, 0), value=floor),
            alignments=alignments,
            truncated=any(utterance.truncated for utterance in utterances),
            stats=summed([utterance.stats for utterance in utterances], at / audio.sample_rate),
            pieces=spoken,
            faults=[fault for utterance in utterances for fault in utterance.faults],
            ids=[i for read in reads for i in (*read.ids, space)][:-1],
            reads=list(reads),
            reader=reader,
            audio_config=audio,
        )


class Part(NamedTuple):
    """The result for a piece of one of several texts; None if it has nothing to say."""

    number: int  # of the text
    read: Read | None  # None: the text is empty
    utterance: Utterance | None
    is_last: bool  # of its text


def pause_frames(piece: Piece, pauses: Pauses, audio: AudioConfig) -> int:
    """The mel frames of the pause after a piece."""
    return silence_frames(pauses.after(piece.pause), audio)


def silence_frames(seconds: float, audio: AudioConfig) -> int:
    """The mel frames that are nearest to a time."""
    return round(seconds * audio.sample_rate / audio.hop_length)


def overview(alignments: Sequence[Tensor], largest: int = 4000) -> Tensor:
    """The alignment of several pieces with at most about `largest` rows and columns, each the maximum of several."""
    frames, symbols = (sum(part.shape[dim] for part in alignments) for dim in (0, 1))
    step = math.ceil(max(frames, symbols) / largest)
    reduced = (F.max_pool2d(part.unsqueeze(0), step, ceil_mode=True)[0] if step > 1 else part for part in alignments)
    coarse: Tensor = torch.block_diag(*reduced)
    return coarse


def summed(parts: Sequence[dict[str, float]], audio_seconds: float) -> dict[str, float]:
    """The stats of a text from those of its pieces; pauses cost no time."""
    seconds = [key for key in parts[0] if key.endswith("latency")]
    stats = {key: sum(part[key] for part in parts) for key in seconds}
    for key in parts[0]:
        if key.endswith("_items_per_sec"):
            latency = key.replace("_items_per_sec", "_latency")
            stats[key] = sum(part[key] * part[latency] for part in parts) / stats[latency]
    return with_speed(stats | {"audio_seconds": audio_seconds})


def with_speed(stats: dict[str, float]) -> dict[str, float]:
    """Add rtf, the seconds of computing per second of audio, and its inverse."""
    rtf = stats["latency"] / stats["audio_seconds"]
    return {**stats, "rtf": rtf, "times_real_time": 1 / rtf}


def _with_space(alignment: Tensor, num_frames: int) -> Tensor:
    """An alignment (T, L) with a column for a space, and `num_frames` rows at this space."""
    return _at_end(F.pad(alignment, (0, 1)), num_frames)


def _at_end(alignment: Tensor, num_frames: int) -> Tensor:
    """An alignment (T, L) with `num_frames` more rows, at the last symbol."""
    longer = F.pad(alignment, (0, 0, 0, num_frames))
    longer[len(alignment) :, -1] = 1
    return longer
