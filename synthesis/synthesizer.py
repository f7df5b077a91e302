"""Text to audio: Tacotron 2, then a vocoder."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from common.checkpoint import formats
from common.device import now, resolve_device
from common.errors import UserError, about
from common.ops.padding import pad_last
from common.ops.precision import autocast
from common.schema import Count, Index, NonNegative, Options, Seed, check
from synthesis.models import MODELS, RUINED, load_checkpoint, not_finite, require_finite
from synthesis.sentences import split_long
from synthesis.vocoder import INT8, SpeechPrecision, Vocoder, total_latency
from tacotron2.model import Tacotron2
from tacotron2.text import SYMBOLS, Encoded, Lexicon, encode

SORTED_BATCHES = 8  # so many batches of texts are sorted by length together
BATCH_SYMBOLS = 16_000  # bounds the memory of a batch: 80 texts of the longest length


@dataclass(frozen=True)
class SpeechOptions(Options):
    """How to synthesize. On one device, seed and text determine the audio of a text, whatever else is synthesized."""

    seed: Seed = 0
    sigma: NonNegative | None = None  # standard deviation of WaveGlow's noise; None: the model's own
    denoiser_strength: NonNegative = 0.01  # 0: no denoiser
    max_decoder_steps: Count | None = None  # None: the model's own


@dataclass
class Utterance:
    """The result for one text."""

    audio: Tensor  # (N) on the CPU
    mel: Tensor  # (n_mels, T)
    alignments: list[Tensor]  # (t, l) of each piece that a long text was cut into
    truncated: bool  # the decoder did not stop by itself
    stats: dict[str, float]  # latencies (s) and items/s under the reference's log keys, audio_seconds, rtf and inverse
    dropped: list[str] = field(default_factory=list)  # parts of the text that the model has no symbol for, each once

    @property
    def alignment(self) -> Tensor:
        """(T, L) of the whole text. Its size grows with the square of the number of pieces."""
        return self.alignments[0] if len(self.alignments) == 1 else torch.block_diag(*self.alignments)

    @classmethod
    def joined(cls, pieces: Sequence[Utterance]) -> Utterance:
        """Join the pieces of one text."""
        if len(pieces) == 1:
            return pieces[0]
        seconds = ("audio_seconds", *(key for key in pieces[0].stats if key.endswith("latency")))
        stats = {key: sum(piece.stats[key] for piece in pieces) for key in seconds}
        audio, mel = torch.cat([piece.audio for piece in pieces]), torch.cat([piece.mel for piece in pieces], 1)
        for key in pieces[0].stats:
            if key.endswith("_items_per_sec"):
                model = key.removesuffix("_items_per_sec")
                stats[key] = (mel.shape[1] if model == "tacotron2" else len(audio)) / stats[f"{model}_latency"]
        alignments = [alignment for piece in pieces for alignment in piece.alignments]
        return cls(audio, mel, alignments, any(piece.truncated for piece in pieces), with_speed(stats))


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
        lexicon: Lexicon | None = None,
    ) -> None:
        self.tacotron2, self.vocoder, self.audio, self.source = tacotron2, vocoder, vocoder.audio, source
        self.cleaners, self.symbols, self.lexicon = cleaners, symbols, lexicon
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
        lexicon: str | Path | None = None,
        **overrides: Any,
    ) -> Synthesizer:
        """Load from checkpoints or run directories. Without `waveglow` the vocoder is Griffin-Lim.

        match_mel: number of MelMatch passes; None: WaveGlow's own.
        postfilter_strength: strength of Tacotron 2's global-variance postfilter; 0: off.
        lexicon: file of words and their readings, see `Lexicon`.
        overrides: fields of Tacotron 2's config.
        """
        check(match_mel, Index, "match_mel")
        check(postfilter_strength, NonNegative, "postfilter_strength")
        words = None if lexicon is None else Lexicon.load(lexicon)
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
        return cls(model, vocoder, text.cleaners, text.symbols, precision, f"tacotron2={tacotron2}", words)

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

        A text of more than MAX_SYMBOLS symbols is synthesized in pieces, see `split_long`. `Utterance.dropped` lists
        what was left out of each text, without a warning. `options` are the fields of SpeechOptions. A model that gives
        NaN or infinity raises a UserError, which names the checkpoint and the text.
        """
        chosen = SpeechOptions(**options)
        window = batch_size * (SORTED_BATCHES if batch_size > 1 else 1)
        for start in range(0, len(texts), window):
            found = self._window(texts[start : start + window], batch_size, chosen)
            yield from (found[k : k + batch_size] for k in range(0, len(found), batch_size))

    def _window(self, texts: Sequence[str], batch_size: int, options: SpeechOptions) -> list[Utterance | None]:
        """Synthesize some texts, similar lengths together, for less padding."""
        encoded = [self._encode(text) for text in texts]
        pieces = [
            (number, ids)
            for number, (all_ids, _) in enumerate(encoded)
            for ids in (split_long(all_ids, self.symbols) if all_ids else [])
        ]
        order = sorted(range(len(pieces)), key=lambda k: len(pieces[k][1]))
        found: dict[int, Utterance] = {}
        for batch in _batches(order, [len(ids) for _, ids in pieces], batch_size):
            ids, names = [pieces[k][1] for k in batch], [repr(texts[pieces[k][0]][:60]) for k in batch]
            found.update(zip(batch, self._batch(ids, names, options), strict=True))
        joined: list[Utterance | None] = [None] * len(texts)
        for number, group in itertools.groupby(range(len(pieces)), lambda k: pieces[k][0]):
            utterance = joined[number] = Utterance.joined([found[k] for k in group])
            utterance.dropped = encoded[number].dropped
        return joined

    def stream(self, text: str, **options: Any) -> Iterator[Tensor]:
        """Synthesize one text, and yield its audio (N) in parts on the CPU while the decoder is running.

        Together they equal the audio of `speak` within 1e-4 of full scale. `options` are the fields of SpeechOptions.
        """
        chosen = SpeechOptions(**options)
        for ids in split_long(self.ids(text), self.symbols):
            with about(repr(text[:60])):
                yield from self._stream_piece(ids, chosen)

    def _stream_piece(self, ids: list[int], options: SpeechOptions) -> Iterator[Tensor]:
        for_decoder, for_vocoder = generators(options.seed, ids, self.device)
        stream = self.vocoder.stream(for_vocoder, options.sigma, options.denoiser_strength)
        parts = self.tacotron2.stream(torch.tensor(ids, device=self.device), options.max_decoder_steps, for_decoder)
        while True:
            with autocast(self.device, self.precision):
                part = next(parts, None)
            if part is None:
                break
            require_finite(self.tacotron2, self.source, mel=part.mel, alignment=part.alignment)
            yield from stream.feed(part.mel.float())
        yield from stream.close()

    def ids(self, text: str) -> list[int]:
        """The symbol ids of `text`; empty if there is nothing to say."""
        return self._encode(text).ids

    def dropped(self, text: str) -> list[str]:
        """The parts of `text` that the model has no symbol for; see `Encoded`."""
        return self._encode(text).dropped

    def _encode(self, text: str) -> Encoded:
        return encode(text, self.cleaners, self.symbols, self.lexicon)

    def _batch(self, ids: list[list[int]], names: list[str], options: SpeechOptions) -> Iterator[Utterance]:
        """One batch through Tacotron 2, then each utterance through the vocoder alone, without padding.

        Errors start with the name of the utterance.
        """
        text = pad_last([torch.tensor(i) for i in ids], 0).to(self.device)
        lengths = torch.tensor([len(i) for i in ids], device=self.device)
        for_decoder, for_vocoder = zip(*(generators(options.seed, i, self.device) for i in ids), strict=True)
        start = now(self.device)
        with autocast(self.device, self.precision):
            speech = self.tacotron2.infer(text, lengths, options.max_decoder_steps, list(for_decoder))
        seconds = now(self.device) - start
        total_frames = int(speech.mel_lengths.sum())
        for row, num_frames in enumerate(speech.mel_lengths.tolist()):
            mel = speech.mel_postnet[row, :, :num_frames].float()
            alignment = speech.alignment[row, :num_frames, : len(ids[row])].float().cpu()
            with about(names[row]):
                require_finite(self.tacotron2, self.source, mel=mel, alignment=alignment)
                audio, vocoder_stats = self.vocoder(mel, for_vocoder[row], options.sigma, options.denoiser_strength)
            # The batch's time is split in proportion to frames; for a batch of one this is the latency itself.
            stats = {
                "tacotron2_items_per_sec": total_frames / seconds,
                "tacotron2_latency": seconds * num_frames / total_frames,
                **vocoder_stats,
            }
            stats["latency"] = total_latency(stats)
            stats["audio_seconds"] = len(audio) / self.audio.sample_rate
            yield Utterance(audio, mel.cpu(), [alignment], bool(speech.truncated[row]), with_speed(stats))


def generators(seed: int, ids: Sequence[int], device: torch.device) -> tuple[Generator, Generator]:
    """The randomness of one piece, for the decoder and for the vocoder. It depends only on the seed and the text."""
    digest = hashlib.sha256(repr((seed, list(ids))).encode()).digest()
    first, second = (
        Generator(device).manual_seed(int.from_bytes(digest[start : start + 4], "little")) for start in (0, 4)
    )
    return first, second


def _batches(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Divide `order`, sorted by length, into batches of at most `batch_size` pieces and BATCH_SYMBOLS symbols."""
    batch: list[int] = []
    for k in order:
        if batch and (len(batch) == batch_size or (len(batch) + 1) * lengths[k] > BATCH_SYMBOLS):
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch
