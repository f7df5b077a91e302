"""A piece of text to its mel: Tacotron 2, and another attempt where the attention did not read the piece right.

Shapes: T mel frames, L symbols.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor

from common.config import AudioConfig
from common.device import now
from common.errors import UserError, about
from common.ops.padding import pad_last
from common.ops.precision import autocast
from synthesis.models import RUINED, not_finite, require_finite
from synthesis.options import SpeechOptions
from synthesis.reader import Read, Reader
from synthesis.reading import PATIENCE_SECONDS, Decoded, Fault, Request, read_right
from synthesis.reading import faults as found_faults
from synthesis.vocoder import SpeechPrecision, computes_in
from tacotron2.continuous import Continuous, SpeechPart, Text
from tacotron2.model import Tacotron2
from tacotron2.speakers import id_tensor
from tacotron2.text import ids_to_text, word_spans


class TextToMel:
    """Tacotron 2 as the Synthesizer uses it. `source` names its checkpoint in messages."""

    def __init__(
        self, tacotron2: Tacotron2, reader: Reader, audio: AudioConfig, precision: SpeechPrecision, source: str
    ) -> None:
        self.tacotron2, self.reader, self.source = tacotron2, reader, source
        self.frame_seconds = audio.hop_length / audio.sample_rate
        self.patience: int | None = math.ceil(PATIENCE_SECONDS / self.frame_seconds)  # frames; None: no limit
        self.device = next(tacotron2.parameters()).device
        self.precision, bits = computes_in(precision, self.device)
        if bits == 8 and (weight := not_finite(tacotron2)):  # NaN would become an 8-bit number
            raise UserError(f"{source}: {RUINED.format(weight)}")
        tacotron2.decoder.weight_bits = bits

    def __call__(self, reads: Sequence[Read], options: SpeechOptions) -> list[list[tuple[Read, Decoded]]]:
        """Decode a batch of pieces. A piece that is not read right may come back as several smaller ones."""
        return read_right(reads, lambda requests: self._decode(requests, options), self.reader.cut, options.attempts)

    def stream(self, read: Read, options: SpeechOptions, wrong: list[Fault]) -> Iterator[Tensor]:
        """Yield the mel (n_mels, t) of a piece in parts while it is decoded, with one attempt. Its faults are added to
        `wrong`."""
        running = self.continuous(options)
        self.join(running, [self.text(read, options, streamed=True)])
        alignment = []
        while running:
            for part in (self.checked(part) for _, part in self.advance(running)):
                alignment.append(part.alignment)
                yield part.mel
        wrong += self.faults(read, torch.cat(alignment), not part.stopped)

    def continuous(self, options: SpeechOptions) -> Continuous:
        """A batch that pieces join and leave; only max_decoder_steps and attention_window of the options count."""
        return Continuous(self.tacotron2, options.max_decoder_steps, self.patience, options.attention_window)

    def text(self, read: Read, options: SpeechOptions, attempt: int = 0, streamed: bool = False) -> Text:
        """A piece that can join a batch; only the seed of the options counts."""
        return Text(read.ids, self._random(read, options, attempt), streamed, read.speaker)

    def _random(self, read: Read, options: SpeechOptions, attempt: int) -> Generator | None:
        """What the prenet draws its dropout from. Further attempts differ from the first by it alone."""
        if attempt == 0 and not self.tacotron2.config.dropout_in_synthesis:
            return None
        return for_decoder(options.seed, read.ids, self.device, attempt)

    def join(self, running: Continuous, texts: Sequence[Text]) -> None:
        with autocast(self.device, self.precision):
            running.join(texts)

    def advance(self, running: Continuous) -> list[tuple[Text, SpeechPart]]:
        """The next parts of a batch. Each is for `checked`."""
        with autocast(self.device, self.precision):
            return running.advance()

    def checked(self, part: SpeechPart) -> SpeechPart:
        """A part in float32, its alignment on the CPU. Raises UserError if it is not finite."""
        require_finite(self.tacotron2, self.source, mel=part.mel, alignment=part.alignment)
        return part._replace(mel=part.mel.float(), alignment=part.alignment.float().cpu())

    def _decode(self, requests: Sequence[Request], options: SpeechOptions) -> list[Decoded]:
        """The time of the batch is split in proportion to frames; for a batch of one it is the latency."""
        reads = [request.read for request in requests]
        text = pad_last([torch.tensor(read.ids) for read in reads], 0).to(self.device)
        lengths = torch.tensor([len(read.ids) for read in reads], device=self.device)
        speaker = id_tensor([read.speaker for read in reads], self.device)
        random = [self._random(read, options, attempt) for read, attempt in requests]
        start = now(self.device)
        with autocast(self.device, self.precision):
            speech = self.tacotron2.infer(
                text, lengths, options.max_decoder_steps, random, self.patience, options.attention_window, speaker
            )
        seconds = (now(self.device) - start) / int(speech.mel_lengths.sum())
        found = []
        for row, (read, num_frames) in enumerate(zip(reads, speech.mel_lengths.tolist(), strict=True)):
            mel = speech.mel_postnet[row, :, :num_frames].float()
            alignment, truncated = speech.alignment[row, :num_frames, : len(read.ids)], bool(speech.truncated[row])
            alignment = alignment.float().cpu()
            with about(read.name):
                require_finite(self.tacotron2, self.source, mel=mel, alignment=alignment)
            found.append(self.decoded(read, mel, alignment, truncated, seconds * num_frames))
        return found

    def decoded(self, read: Read, mel: Tensor, alignment: Tensor, truncated: bool, seconds: float = 0.0) -> Decoded:
        """A piece with what is wrong with it."""
        return Decoded(mel, alignment, truncated, seconds, self.faults(read, alignment, truncated))

    def faults(self, read: Read, alignment: Tensor, truncated: bool) -> list[Fault]:
        """What is wrong with an alignment (T, L) of a piece."""
        words = word_spans(read.ids, self.reader.symbols)
        names = [ids_to_text(read.ids[first:end], self.reader.symbols) for first, end in words]
        return found_faults(alignment, words, names, truncated, self.frame_seconds)


def for_decoder(seed: int, ids: Sequence[int], device: torch.device, attempt: int = 0) -> Generator:
    """The randomness of an attempt at a piece: it depends only on the seed, the text, and the number of the attempt."""
    return _generator((seed, list(ids), *([attempt] if attempt else [])), 0, device)


def for_vocoder(seed: int, ids: Sequence[int], device: torch.device) -> Generator:
    """The noise of a piece: it depends only on the seed and the text."""
    return _generator((seed, list(ids)), 4, device)


def _generator(key: tuple[object, ...], start: int, device: torch.device) -> Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Generator(device).manual_seed(int.from_bytes(digest[start : start + 4], "little"))
