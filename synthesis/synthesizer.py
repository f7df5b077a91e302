"""Text to audio: Tacotron 2, then a vocoder."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from common.checkpoint import formats
from common.device import now, resolve_device
from common.errors import UserError, about
from common.ops.padding import pad_last
from common.ops.precision import autocast
from common.schema import Count, Index, NonNegative, Options, Seed, check
from synthesis.models import MODELS, RUINED, load_checkpoint, not_finite, require_finite
from synthesis.reader import Read, Reader
from synthesis.sentences import Pauses
from synthesis.utterance import Utterance, pause_frames, with_speed
from synthesis.vocoder import INT8, SpeechPrecision, Vocoder, total_latency
from tacotron2.model import Tacotron2
from tacotron2.text import SYMBOLS, Lexicon

SORTED_BATCHES = 8  # batches of pieces that are sorted by length together
BATCH_SYMBOLS = 16_000  # bounds the memory of a batch: 80 texts of the longest length


@dataclass(frozen=True)
class SpeechOptions(Options):
    """How to synthesize. On one device, seed and text determine the audio of a text, whatever else is synthesized."""

    seed: Seed = 0
    sigma: NonNegative | None = None  # standard deviation of WaveGlow's noise; None: the model's own
    denoiser_strength: NonNegative = 0.01  # 0: no denoiser
    max_decoder_steps: Count | None = None  # of a piece; None: the model's own
    pauses: Pauses = field(default_factory=Pauses)  # between the pieces of a text


class Part(NamedTuple):
    """The result for a piece of one of several texts; None if it has nothing to say."""

    number: int  # of the text
    read: Read | None  # None: the text is empty
    utterance: Utterance | None
    is_last: bool  # of its text


class Synthesizer:
    """Text to audio: `speak` takes one text, `batches` takes many, `stream` gives audio before a text is finished.

    Several threads may use it at once. Messages call Tacotron 2's checkpoint `source`.
    """

    def __init__(
        self,
        tacotron2: Tacotron2,
        vocoder: Vocoder,
        reader: Reader | None = None,
        precision: SpeechPrecision = "fp32",
        source: str = "tacotron2",
    ) -> None:
        self.tacotron2, self.vocoder, self.audio, self.source = tacotron2, vocoder, vocoder.audio, source
        self.reader = reader or Reader("english_cleaners", SYMBOLS)
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
        device: str | torch.device = "auto",
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
        where = device if isinstance(device, torch.device) else resolve_device(device)
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
        reader = Reader(text.cleaners, text.symbols, text.limit, words)
        return cls(model, vocoder, reader, precision, f"tacotron2={tacotron2}")

    @property
    def cleaners(self) -> str:
        return self.reader.cleaners

    @property
    def symbols(self) -> Sequence[str]:
        return self.reader.symbols

    def speak(self, text: str, **options: Any) -> Utterance:
        """Synthesize one text; `options` are the fields of SpeechOptions.

        Characters that the model has no symbol for are left out, with a warning; `Utterance.dropped` lists them. Raises
        UserError if nothing is left.
        """
        utterance = next(self.batches([text], **options))[0]
        if utterance is None:
            raise self._nothing_left(text)
        _warn_dropped(utterance.dropped)
        return utterance

    def batches(self, texts: Sequence[str], batch_size: int = 1, **options: Any) -> Iterator[list[Utterance | None]]:
        """Synthesize `texts` in their order, `batch_size` at a time; None stands for a text with nothing to say.

        A text is synthesized in pieces, see `Splitter`; a batch may hold pieces of several texts. `Utterance.dropped`
        lists what was left out of each text, without a warning. `options` are the fields of SpeechOptions. A model that
        gives NaN or infinity raises a UserError, which names the checkpoint and the text.
        """
        utterances = self._utterances(texts, batch_size, SpeechOptions(**options))
        while batch := list(itertools.islice(utterances, batch_size)):
            yield batch

    def _utterances(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Utterance | None]:
        space = self.symbols.index(" ") if " " in self.symbols else 0
        for _, group in itertools.groupby(self.parts(texts, batch_size, options), lambda part: part.number):
            parts = list(group)
            audible = [(part.read, part.utterance) for part in parts if part.read and part.utterance]
            utterance = Utterance.joined(audible, options.pauses, self.audio, space) if audible else None
            if utterance:
                dropped = (symbol for part in parts if part.read for symbol in part.read.dropped)
                utterance.dropped = list(dict.fromkeys(dropped))
            yield utterance

    def parts(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Part]:
        """Synthesize `texts` piece by piece, in their order, in memory that does not grow with their lengths."""
        reads = _numbered(self.reader, texts)
        while window := list(itertools.islice(reads, batch_size * (SORTED_BATCHES if batch_size > 1 else 1))):
            ids = [read.ids if read else [] for _, read, _ in window]
            order = sorted((k for k in range(len(window)) if ids[k]), key=lambda k: len(ids[k]))
            found: dict[int, Utterance] = {}
            for batch in _batches(order, list(map(len, ids)), batch_size):
                names = [repr(read.piece.text[:60]) for _, read, _ in (window[k] for k in batch) if read]
                found.update(zip(batch, self._batch([ids[k] for k in batch], names, options), strict=True))
            for k, (number, read, is_last) in enumerate(window):
                yield Part(number, read, found.get(k), is_last)

    def stream(self, text: str | Iterable[str], **options: Any) -> Iterator[Tensor]:
        """Synthesize one text, and yield its audio (N) in parts on the CPU while the decoder is running.

        The text may arrive in chunks too. Together, the parts equal the audio of `speak` within 1e-4 of full scale. The
        time to the first part and the memory do not depend on the length of the text. `options` are the fields of
        SpeechOptions. Warnings and errors are those of `speak`.
        """
        chosen, pause, dropped = SpeechOptions(**options), None, dict[str, None]()
        for read in self.reader.read(text):
            dropped.update(dict.fromkeys(read.dropped))
            if not read.ids:
                continue
            if pause:
                yield torch.zeros(pause)
            with about(repr(read.piece.text[:60])):
                yield from self._stream_piece(read.ids, chosen)
            pause = self.audio.hop_length * pause_frames(read.piece, chosen.pauses, self.audio)
        if pause is None:
            raise self._nothing_left(text if isinstance(text, str) else "a stream")
        _warn_dropped(list(dropped))

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
        return self.reader.encode(text).ids

    def dropped(self, text: str) -> list[str]:
        """The parts of `text` that the model has no symbol for; see `Encoded`."""
        return self.reader.encode(text).dropped

    def _nothing_left(self, text: str) -> UserError:
        return UserError(f"nothing is left of {text[:60]!r} after {self.cleaners}; use the symbols of the model")

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


def _numbered(reader: Reader, texts: Iterable[str]) -> Iterator[tuple[int, Read | None, bool]]:
    """Yield (number of the text, piece, whether it is the last) for all `texts`. The piece of an empty text is None."""
    for number, text in enumerate(texts):
        before: Read | None = None
        for read in reader.read(text):
            if before:
                yield number, before, False
            before = read
        yield number, before, True


def _warn_dropped(dropped: Sequence[str]) -> None:
    if dropped:
        left_out = " ".join(dropped)
        warnings.warn(f"left out, because the model has no symbol for them: {left_out}", stacklevel=3)
