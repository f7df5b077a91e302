"""Tacotron 2 for texts that come and go: each joins the batch that is running, and leaves it when it has ended.

On a CPU a text has the same bits as alone.

Shapes: L characters, t mel frames, r frames per decoder step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from common.ops.chunks import Chunked
from tacotron2.progress import Limits
from tacotron2.speakers import id_tensor

if TYPE_CHECKING:
    from tacotron2.free_running import Block, FreeRunning
    from tacotron2.model import Tacotron2

STREAMED = (16, 128)  # frames of the postnet's first and later chunks in streaming


class SpeechPart(NamedTuple):
    """A part of the speech of one text. In streaming, frames arrive later than their alignment: the postnet looks
    ahead."""

    mel: Tensor  # (n_mels, t) after the postfilter
    alignment: Tensor  # (s, L)
    stopped: bool  # the gate has opened
    ended: bool  # this is the last part; the gate may not have opened


@dataclass(eq=False)
class Text:
    """A text that is decoded. The prenet's dropout is drawn from `generator`; None: no dropout."""

    ids: Sequence[int]  # (L)
    generator: Generator | None
    streamed: bool = False  # give its mel in parts; else all at its end
    speaker: int | None = None  # id, if the model has speakers
    frames: list[Tensor] = field(default_factory=list, init=False)  # (n_mels, t) before the postnet, if not streamed
    alignment: list[Tensor] = field(default_factory=list, init=False)
    postnet: Chunked | None = field(default=None, init=False)


class Continuous:
    """Decodes texts block by block. `max_steps`, `patience` and `window` are those of Tacotron2.infer."""

    def __init__(
        self, model: Tacotron2, max_steps: int | None = None, patience: int | None = None, window: int | None = None
    ) -> None:
        self.model, config = model, model.config
        patience = patience and math.ceil(patience / config.n_frames_per_step)
        self.limits = Limits(max_steps or config.max_decoder_steps, patience, window)
        self.reach = config.postnet_n_convolutions * (config.postnet_kernel_size // 2)  # frames
        self.batch: FreeRunning | None = None
        self.texts: dict[int, Text] = {}  # by their numbers in the batch

    def __len__(self) -> int:
        """The number of texts that are running."""
        return len(self.texts)

    @torch.no_grad()
    def join(self, texts: Sequence[Text]) -> None:
        """Add texts."""
        device = self.model.embedding.weight.device
        ids = [torch.tensor(text.ids, device=device) for text in texts]
        lengths = torch.tensor([len(own) for own in ids], device=device)
        speaker = id_tensor([text.speaker for text in texts], device)
        memory = self.model.encode_each(pad_sequence(ids, batch_first=True), lengths, speaker)
        batch = self.model.decoder.free_running(memory, lengths, self.limits, [text.generator for text in texts])
        for text in texts:
            text.postnet = Chunked(self.model.after_decoder, (1, 1), self.reach, STREAMED) if text.streamed else None
        if self.batch is None:
            self.batch = batch
            self.texts = dict(enumerate(texts))
        else:
            self.texts.update(zip(self.batch.join(batch), texts, strict=True))

    def leave(self, texts: Iterable[Text]) -> None:
        """Remove texts that have not ended."""
        gone = set(map(id, texts))
        self.texts = {number: text for number, text in self.texts.items() if id(text) not in gone}
        if self.batch is not None and self.texts:
            self.batch.keep([number in self.texts for number in self.batch.rows.tolist()])
        else:
            self.batch = None

    @torch.no_grad()
    def advance(self) -> list[tuple[Text, SpeechPart]]:
        """Run the next steps, at most CHECK_EVERY; return the parts that are ready."""
        if self.batch is None:
            return []
        with torch.autocast(self.batch.values.device.type, enabled=False):
            block = self.batch.advance()
        parts = []
        for row, number in enumerate(block.rows.tolist()):
            if (text := self.texts.get(number)) is None:
                continue  # it has ended before, but is not yet removed from the batch
            if not block.running[row]:
                del self.texts[number]
            if part := self._part(text, block, row):
                parts.append((text, part))
        if not self.texts:
            self.batch = None
        return parts

    def _part(self, text: Text, block: Block, row: int) -> SpeechPart | None:
        steps, ended, r = int(block.num_steps[row]), not block.running[row], self.model.config.n_frames_per_step
        mel = self.model.decoder.mel(block.frames[row : row + 1, :steps])
        alignment = block.alignment[row, :steps, : len(text.ids)].repeat_interleave(r, 0)
        stopped = bool(block.stopped[row])
        if text.postnet is None:
            text.frames.append(mel)
            text.alignment.append(alignment)
            if not ended:
                return None
            whole = self.model.after_decoder(torch.cat(text.frames, 2))[0]
            return SpeechPart(whole, torch.cat(text.alignment), stopped, ended)
        ready = [part[0] for part in text.postnet.feed(mel)]
        if ended:
            ready += [part[0] for part in text.postnet.close()]
        none = mel.new_zeros(mel.shape[1], 0)
        return SpeechPart(torch.cat((none, *ready), 1), alignment, stopped, ended)
