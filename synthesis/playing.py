"""The pieces of one text to its audio, with the pauses between them, while the pieces are still being decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import about
from synthesis.options import SpeechOptions
from synthesis.reader import Read
from synthesis.speed import Resampler
from synthesis.text_to_mel import for_vocoder
from synthesis.utterance import silence_frames
from synthesis.vocoder import EARLY, Vocoder, whole_sizes


@dataclass(eq=False)
class Playable:
    """A piece whose mel may still be arriving."""

    read: Read
    mels: Tensor | Iterable[Tensor | None]  # (n_mels, T), or its parts; None: the next is not there yet
    speed: float
    pause: float  # seconds behind it
    lead: float = 0.0  # seconds before it, in addition to the pause behind the piece before
    start: int | None = None  # sample of the audio where it begins, once that is known


def play(
    pieces: Iterable[Playable | None], vocoder: Vocoder, options: SpeechOptions, greedy: bool = False
) -> Iterator[Tensor | None]:
    """Yield the audio (N) of a text in parts on the CPU; None where it has to wait for a piece, which then is None too,
    or for a part of its mel.

    Of the options, seed, sigma, denoiser_strength, and the pauses around the text count. `greedy` is that of
    Vocoder.stream. Without a piece there is no audio.
    """
    at, pause = 0, options.pauses.lead
    for piece in pieces:
        if piece is None:
            yield None
            continue
        for silence in _silence(pause + piece.lead, vocoder):
            at += len(silence)
            yield silence
        piece.start = at
        for part in _vocode(piece, vocoder, options, greedy):
            at += 0 if part is None else len(part)
            yield part
        pause = piece.pause
    if at:
        yield from _silence(options.pauses.trail, vocoder)


def _silence(seconds: float, vocoder: Vocoder) -> Iterator[Tensor]:
    if num_frames := silence_frames(seconds, vocoder.audio):
        yield torch.zeros(num_frames * vocoder.audio.hop_length)


def _vocode(piece: Playable, vocoder: Vocoder, options: SpeechOptions, greedy: bool) -> Iterator[Tensor | None]:
    generator = for_vocoder(options.seed, piece.read.ids, vocoder.device)
    # Of a whole mel, at other speeds, up to a frame is added.
    sizes = whole_sizes(int(piece.mels.shape[1] / piece.speed) + 1) if isinstance(piece.mels, Tensor) else EARLY
    stream = vocoder.stream(generator, options.sigma, options.denoiser_strength, sizes, greedy)
    resampler = Resampler(piece.speed)
    with about(piece.read.name):
        if isinstance(piece.mels, Tensor):
            yield from stream.close(resampler.feed(piece.mels))
            return
        for mel in piece.mels:
            if mel is None:
                yield None
            else:
                yield from stream.feed(resampler.feed(mel))
        yield from stream.close()
