"""Text to audio: Tacotron 2, then a vocoder."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from common.checkpoint import formats
from common.config import AudioConfig
from common.device import now, resolve_device
from common.errors import UserError, about
from common.ops.padding import pad_last
from common.ops.precision import autocast
from common.schema import Count, Index, NonNegative, Options, Seed, check
from synthesis.models import MODELS, RUINED, load_checkpoint, not_finite, require_finite
from synthesis.reader import Reader, Reading
from synthesis.sentences import Pauses, Piece
from synthesis.vocoder import INT8, SpeechPrecision, Vocoder, total_latency
from tacotron2.model import Tacotron2
from tacotron2.text import SYMBOLS


@dataclass(frozen=True)
class SpeechOptions(Options):
    """How to synthesize. On one device, seed, texts and batch size determine the audio, whatever other threads do."""

    seed: Seed = 0
    sigma: NonNegative | None = None  # standard deviation of WaveGlow's noise; None: the model's own
    denoiser_strength: NonNegative = 0.01  # 0: no denoiser
    max_decoder_steps: Count | None = None  # of a piece; None: the model's own
    pauses: Pauses = field(default_factory=Pauses)  # between the pieces of a text


class Spoken(NamedTuple):
    """A piece of a text, and its place in the audio."""

    piece: Piece
    start: int  # samples
    end: int


@dataclass
class Utterance:
    """The result for one text."""

    audio: Tensor  # (N) on the CPU
    mel: Tensor  # (n_mels, T)
    alignments: list[Tensor]  # of each piece: (T, L); see `alignment`
    truncated: bool  # the decoder did not stop by itself, in one of the pieces
    stats: dict[str, float]  # latencies (s) and items/s under the reference's log keys, audio_seconds, rtf and inverse
    dropped: list[str] = field(default_factory=list)  # parts of the text that the model has no symbol for, each once
    pieces: list[Spoken] = field(default_factory=list)  # sentences, and clauses of long ones
    ids: list[int] = field(default_factory=list)  # (L) the symbols of the pieces, with a space between two

    @property
    def num_pieces(self) -> int:
        return len(self.pieces)

    @property
    def alignment(self) -> Tensor:
        """(T, L); during a pause it is at the space. Its size is quadratic in the length of the text."""
        whole: Tensor = torch.block_diag(*self.alignments)
        return whole

    def overview(self, largest: int = 4000) -> Tensor:
        """The alignment with at most about `largest` rows and columns, each the maximum of some of its own."""
        step = math.ceil(max(self.mel.shape[1], len(self.ids)) / largest)
        if step <= 1:
            return self.alignment
        reduced = (F.max_pool2d(part.unsqueeze(0), step, ceil_mode=True)[0] for part in self.alignments)
        coarse: Tensor = torch.block_diag(*reduced)
        return coarse

    @classmethod
    def joined(
        cls, parts: Sequence[Utterance], reading: Reading, pauses: Pauses, audio: AudioConfig, space: int
    ) -> Utterance:
        """Join the pieces of one text, with pauses of whole frames between them.

        space: the id of the space between two pieces.
        """
        frames = [round(pauses.after(piece.pause) * audio.sample_rate / audio.hop_length) for piece in reading.pieces]
        frames[-1] = 0
        spoken, at = [], 0
        for part, piece, num_frames in zip(parts, reading.pieces, frames, strict=True):
            spoken.append(Spoken(piece, at, at + len(part.audio)))
            at += len(part.audio) + num_frames * audio.hop_length
        floor = math.log(audio.log_floor)
        samples = [F.pad(p.audio, (0, n * audio.hop_length)) for p, n in zip(parts, frames, strict=True)]
        mels = [F.pad(p.mel, (0, n), value=floor) for p, n in zip(parts, frames, strict=True)]
        alignments = [_with_space(p.alignments[0], n) for p, n in zip(parts[:-1], frames[:-1], strict=True)]
        ids = [i for piece in reading.ids for i in (*piece, space)][:-1]
        truncated = any(part.truncated for part in parts)
        stats = _summed([part.stats for part in parts], at / audio.sample_rate)
        return cls(
            torch.cat(samples), torch.cat(mels, 1), [*alignments, parts[-1].alignments[0]], truncated, stats,
            reading.dropped, spoken, ids,
        )  # fmt: skip


def _with_space(alignment: Tensor, num_frames: int) -> Tensor:
    """An alignment (T, L) with a column for a space, and `num_frames` rows at this space."""
    longer = F.pad(alignment, (0, 1, 0, num_frames))
    longer[len(alignment) :, -1] = 1
    return longer


def _summed(parts: Sequence[dict[str, float]], audio_seconds: float) -> dict[str, float]:
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


class Synthesizer:
    """Text to audio: `speak` takes one text, `batches` takes many. Several threads may use it at once.

    Messages call Tacotron 2's checkpoint `source`.
    """

    def __init__(
        self,
        tacotron2: Tacotron2,
        vocoder: Vocoder,
        cleaners: str = "english_cleaners",
        symbols: Sequence[str] = SYMBOLS,
        precision: SpeechPrecision = "fp32",
        source: str = "tacotron2",
        limit: int | None = None,
    ) -> None:
        self.tacotron2, self.vocoder, self.audio, self.source = tacotron2, vocoder, vocoder.audio, source
        self.cleaners, self.symbols, self.reader = cleaners, symbols, Reader(cleaners, symbols, limit)
        self.device = next(tacotron2.parameters()).device
        if precision == INT8 and self.device.type != "cpu":
            raise UserError(f"precision=int8 is for device=cpu, not for {self.device.type}; use bf16 or fp16 there")
        if precision == INT8 and (weight := not_finite(tacotron2)):  # NaN would become an 8-bit number
            raise UserError(f"{source}: {RUINED.format(weight)}")
        tacotron2.decoder.int8 = precision == INT8
        self.precision = vocoder.precision

    @classmethod
    def load(
        cls,
        tacotron2: str | Path,
        waveglow: str | Path | None = None,
        device: str = "auto",
        precision: SpeechPrecision = "fp32",
        match_mel: int | None = None,
        postfilter_strength: float = 1.0,
        **overrides: Any,
    ) -> Synthesizer:
        """Load from checkpoints or run directories. Without `waveglow` the vocoder is Griffin-Lim.

        match_mel: number of MelMatch passes; None: WaveGlow's own.
        postfilter_strength: strength of Tacotron 2's global-variance postfilter; 0: off.
        overrides: fields of Tacotron 2's config.
        """
        check(match_mel, Index, "match_mel")
        check(postfilter_strength, NonNegative, "postfilter_strength")
        where = resolve_device(device)
        checkpoint = load_checkpoint(tacotron2, "tacotron2")
        text = checkpoint.text
        num_symbols = checkpoint.model_config["n_symbols"]
        if text is None or (text.symbols is not None and len(text.symbols) != num_symbols):
            raise UserError(f"tacotron2={tacotron2}: damaged, it does not name {num_symbols} symbols; use another")
        if text.symbols is None:
            raise UserError(
                f"tacotron2={tacotron2}: its {num_symbols} symbols are not the reference's, "
                "and the file does not name them; convert it first: python scripts/convert_checkpoint.py IN OUT "
                "--symbols FILE"
            )
        vocoder = Vocoder.load(waveglow, checkpoint.audio, where, precision, match_mel)
        model = formats.build(checkpoint, tacotron2, MODELS.values(), **overrides).to(where)
        assert isinstance(model, Tacotron2)
        model.postfilter.strength = postfilter_strength
        return cls(model, vocoder, text.cleaners, text.symbols, precision, f"tacotron2={tacotron2}", text.limit)

    def speak(self, text: str, **options: Any) -> Utterance:
        """Synthesize one text; `options` are the fields of SpeechOptions.

        Characters that the model has no symbol for are left out, with a warning; `Utterance.dropped` lists them. Raises
        UserError if nothing is left.
        """
        utterance = next(self.batches([text], **options))[0]
        if utterance is None:
            raise UserError(f"nothing is left of {text[:60]!r} after {self.cleaners}; use the symbols of the model")
        if utterance.dropped:
            left_out = " ".join(utterance.dropped)
            warnings.warn(f"left out, because the model has no symbol for them: {left_out}", stacklevel=2)
        return utterance

    def batches(self, texts: Sequence[str], batch_size: int = 1, **options: Any) -> Iterator[list[Utterance | None]]:
        """Synthesize `texts` in their order, `batch_size` at a time; None stands for a text with nothing to say.

        A text is synthesized in pieces, see `Splitter`; a batch may hold pieces of several texts. `Utterance.dropped`
        lists what was left out of each text, without a warning. `options` are the fields of SpeechOptions. A model that
        gives NaN or infinity raises a UserError, which names the checkpoint and the text.
        """
        chosen = SpeechOptions(**options)
        generator = torch.Generator(self.device).manual_seed(chosen.seed)
        for start in range(0, len(texts), batch_size):
            readings = [self.reader.read(text) for text in texts[start : start + batch_size]]
            flat = [ids for reading in readings for ids in reading.ids]
            utterances = (
                utterance
                for k in range(0, len(flat), batch_size)
                for utterance in self._batch(flat[k : k + batch_size], chosen, generator)
            )
            joined: list[Utterance | None] = []
            for text, reading in zip(texts[start : start + batch_size], readings, strict=True):
                if not reading.pieces:
                    joined.append(None)
                    continue
                with about(repr(text[:60])):
                    parts = [next(utterances) for _ in reading.pieces]
                joined.append(Utterance.joined(parts, reading, chosen.pauses, self.audio, self._space))
            yield joined

    def ids(self, text: str) -> list[int]:
        """The symbol ids of `text`; empty if there is nothing to say."""
        return self.reader.encode(text).ids

    def dropped(self, text: str) -> list[str]:
        """The parts of `text` that the model has no symbol for; see `Encoded`."""
        return self.reader.encode(text).dropped

    @property
    def _space(self) -> int:
        return self.symbols.index(" ") if " " in self.symbols else 0

    def _batch(self, ids: list[list[int]], options: SpeechOptions, generator: Generator) -> Iterator[Utterance]:
        """One batch through Tacotron 2, then each utterance through the vocoder alone, without padding."""
        if not ids:
            return
        text = pad_last([torch.tensor(i) for i in ids], 0).to(self.device)
        lengths = torch.tensor([len(i) for i in ids], device=self.device)
        start = now(self.device)
        with autocast(self.device, self.precision):
            speech = self.tacotron2.infer(text, lengths, options.max_decoder_steps, generator)
        seconds = now(self.device) - start
        total_frames = int(speech.mel_lengths.sum())
        for row, num_frames in enumerate(speech.mel_lengths.tolist()):
            mel = speech.mel_postnet[row, :, :num_frames].float()
            alignment = speech.alignment[row, :num_frames, : len(ids[row])].float().cpu()
            require_finite(self.tacotron2, self.source, mel=mel, alignment=alignment)
            audio, vocoder_stats = self.vocoder(mel, generator, options.sigma, options.denoiser_strength)
            # The batch's time is split in proportion to frames; for a batch of one this is the latency itself.
            stats = {
                "tacotron2_items_per_sec": total_frames / seconds,
                "tacotron2_latency": seconds * num_frames / total_frames,
                **vocoder_stats,
            }
            stats["latency"] = total_latency(stats)
            stats["audio_seconds"] = len(audio) / self.audio.sample_rate
            yield Utterance(audio, mel.cpu(), [alignment], bool(speech.truncated[row]), with_speed(stats))
