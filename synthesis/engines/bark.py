"""Bark: text to semantic tokens, to coarse codes, to fine codes, to audio, run by the package transformers.

Bark makes at most about 13 seconds at once, so texts are cut into pieces. All pieces of a text are in one voice: that
of the options, or else the one that the model made up for the first piece.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch

from common.config import AudioConfig
from common.device import now
from common.errors import UserError
from common.ops.precision import Precision
from synthesis.engines.bark_model import (
    History,
    Made,
    Sampling,
    generate,
    load_model,
    load_processor,
    load_sampling,
    read_configs,
)
from synthesis.engines.bark_voice import language_of, load_voice
from synthesis.engines.options import BarkOptions
from synthesis.engines.protocol import DEFAULT_VOICE, refuse_options, unknown_voice, utterance_of
from synthesis.options import SpeechOptions
from synthesis.reader import Read, chunks
from synthesis.reading import Fault
from synthesis.sentences import Piece, Splitter
from synthesis.utterance import Part, Utterance

KNOWN = ("seed", "attempts", "pauses", "loudness")  # options; who joins the pieces sees to the last two
SILENCE_SECONDS = 0.1  # of a piece without any token in all attempts
WARM_UP_TOKENS = 10
GLOBAL_RANDOM_STATE = threading.Lock()  # who holds it may draw from it


class Spoken(NamedTuple):
    """A piece as it was made, and the tokens that others can go on from."""

    utterance: Utterance
    tokens: History


class Bark:
    """Bark behind the protocol of engines.

    Bark samples, and the draws of a batch depend on its size. So seed, texts and batch size together fix the audio;
    with a batch size of 1, seed and text do. With all temperatures 0, semantic tokens and coarse codes do not depend on
    the batch, but fine codes do: the fine model looks at codes behind the end of all but the longest text.

    Several threads may use one or several of them at once: one batch is made after the other, because transformers
    draws from the global random state, which is restored after each batch.
    """

    name: ClassVar[str] = "bark"

    def __init__(
        self,
        model: Any,
        processor: Any,
        sampling: Sampling,
        voice: History | None,
        options: BarkOptions,
        device: torch.device,
    ) -> None:
        self.model, self.processor, self.sampling, self.voice = model, processor, sampling, voice
        self.options, self.device, self.language = options, device, language_of(options.voice)
        self.audio = AudioConfig(sample_rate=model.codec_model.config.sampling_rate)
        self._tokenizer_lock = threading.Lock()

    @classmethod
    def load(cls, options: BarkOptions, device: torch.device, precision: Precision) -> Bark:
        """Load the model from a folder or the Hugging Face Hub, and its voice. Raises UserError."""
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        config, generation = read_configs(options.model)
        sampling = load_sampling(options, generation, config["semantic_config"].get("block_size", 1024))
        processor = load_processor(options.model)
        voice = options.voice and load_voice(options.voice, options.model, processor, sampling, device)
        with GLOBAL_RANDOM_STATE, torch.random.fork_rng([]):  # transformers draws weights before it reads them
            model = load_model(options, device, precision)
        return cls(model, processor, sampling, voice or None, options, device)

    @property
    def voices(self) -> list[str]:
        """The presets of the model, after the voice of the options."""
        return [DEFAULT_VOICE, *self.processor.available_voice_presets]

    def speaking_as(self, voice: str) -> Bark:
        """The same models with a preset. A name of a file is unknown: it may come from a request."""
        if voice not in self.voices:
            raise unknown_voice(self, voice)
        other = copy.copy(self)
        if voice != DEFAULT_VOICE:
            other.voice = load_voice(voice, self.options.model, self.processor, self.sampling, self.device)
            other.language = language_of(voice)
        return other

    def parts(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Part]:
        """Synthesize `texts` piece by piece, in their order, in memory that does not grow with their lengths.

        With a voice a batch may hold pieces of several texts. Without one, the first pieces of `batch_size` texts are a
        batch; the other pieces of a text go on from the tokens of its first one, of which a batch can have only one.

        If the model ends before its first token, it tries again, at most `attempts` times; what is silent then has the
        fault "early stop". A piece that comes to the limit of tokens is truncated, and has the fault "runaway".
        """
        refuse_options(options, KNOWN, self.name)
        if self.voice is None:
            return self._going_on(texts, batch_size, options)
        return self._with_voice(texts, batch_size, options, self.voice)

    def _with_voice(
        self, texts: Iterable[str], batch_size: int, options: SpeechOptions, voice: History
    ) -> Iterator[Part]:
        reads = ((number, *read) for number, text in enumerate(texts) for read in self._reads(text))
        while window := list(itertools.islice(reads, batch_size)):
            made = iter(self._speak([read for _, read, _ in window if read], voice, options))
            for number, read, is_last in window:
                yield Part(number, read, next(made).utterance if read else None, is_last)

    def _going_on(self, texts: Iterable[str], batch_size: int, options: SpeechOptions) -> Iterator[Part]:
        numbered = enumerate(texts)
        while window := list(itertools.islice(numbered, batch_size)):
            opened = [(number, self._reads(text)) for number, text in window]
            firsts = [next(reads) for _, reads in opened]
            made = iter(self._speak([read for read, _ in firsts if read], None, options))
            for (number, reads), (first, is_last) in zip(opened, firsts, strict=True):
                if first is None:
                    yield Part(number, None, None, True)
                    continue
                spoken = next(made)
                yield Part(number, first, spoken.utterance, is_last)
                history = spoken.tokens
                for read, is_last in reads:
                    assert read is not None, "only a text without any piece has None"
                    spoken = self._speak([read], history or None, options)[0]
                    history = history or spoken.tokens
                    yield Part(number, read, spoken.utterance, is_last)

    def _reads(self, text: str) -> Iterator[tuple[Read | None, bool]]:
        """The pieces of a text that have a letter or digit, and whether each is the last; None if there is none."""
        before: Read | None = None
        for piece in self._pieces(text):
            if any(map(str.isalnum, piece.text)):
                if before:
                    yield before, False
                before = Read(piece, [], [])
        yield before, True

    def _pieces(self, text: str) -> Iterator[Piece]:
        splitter = Splitter(self._length, self.options.max_characters, self.language)
        for chunk in chunks(text):
            yield from splitter.feed(chunk)
        yield from splitter.close()

    def _length(self, text: str) -> int:
        """Characters, or more if a text of `max_characters` would have too many tokens for the model, which would
        leave out the rest."""
        with self._tokenizer_lock:  # it cannot be used by two threads at once
            tokens = self.processor.tokenizer(_valid(text), add_special_tokens=False, verbose=False)["input_ids"]
        return max(len(text), math.ceil(len(tokens) * self.options.max_characters / self.sampling.max_text_tokens))

    def _speak(self, reads: Sequence[Read], history: History | None, options: SpeechOptions) -> list[Spoken]:
        """Make pieces as one batch, and again those in which the model ended before its first token."""
        texts, found = [read.piece.text for read in reads], dict[int, Made]()
        left, seconds = list(range(len(reads))), 0.0
        for attempt in range(options.attempts):
            if not left:
                break
            made, took = self._attempt([texts[k] for k in left], history, options.seed, attempt)
            seconds += took
            found.update(zip(left, made, strict=True))
            left = [k for k in left if not len(found[k].audio)]
        silence = torch.zeros(round(SILENCE_SECONDS * self.audio.sample_rate))
        audios = [found[k].audio.float().cpu() if k not in left else silence for k in range(len(reads))]
        for text, audio in zip(texts, audios, strict=True):
            if not audio.isfinite().all():
                raise UserError(
                    f"engine.model={self.options.model} gives NaN or infinity for {text[:60]!r}; set precision=fp32"
                )
        total = sum(map(len, audios))
        spoken = []
        for k, audio in enumerate(audios):
            cut = found[k].is_truncated
            utterance = utterance_of(self.name, audio, self.audio.sample_rate, seconds * len(audio) / total, cut)
            utterance.faults = [Fault("early stop", "", 1)] * (k in left) + [Fault("runaway", "", 1)] * cut
            spoken.append(Spoken(utterance, found[k].tokens))
        return spoken

    def _attempt(
        self, texts: Sequence[str], history: History | None, seed: int, attempt: int, sampling: Sampling | None = None
    ) -> tuple[list[Made], float]:
        """What the model makes of one batch, and the seconds of computing."""
        sampling = sampling or self.sampling
        with GLOBAL_RANDOM_STATE, _quiet(), seeded(_derived(seed, texts, attempt), self.device):
            start = now(self.device)
            made = generate(self.model, self._inputs(texts), history, sampling)
            return made, now(self.device) - start

    def _inputs(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The tokens of texts and their mask (B, L), padded to the length that the model always reads."""
        with self._tokenizer_lock:
            inputs = self.processor(list(map(_valid, texts)), max_length=self.sampling.max_text_tokens, truncation=True)
        return {key: inputs[key].to(self.device) for key in ("input_ids", "attention_mask")}

    def check_length(self, text: str) -> None:
        """A text of any length is cut into pieces that the model can read."""

    def warm_up(self) -> None:
        """Make a few tokens of speech with all sub-models."""
        semantic = type(self.sampling.semantic)(
            **{**self.sampling.semantic.to_dict(), "max_new_tokens": WARM_UP_TOKENS, "min_new_tokens": WARM_UP_TOKENS}
        )
        self._attempt(["One, two."], self.voice, 0, 0, replace(self.sampling, semantic=semantic))


def _valid(text: str) -> str:
    """`text` with question marks for halves of surrogate pairs, which the tokenizer refuses."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _derived(seed: int, texts: Sequence[str], attempt: int) -> int:
    """The seed of a batch: like batches have like audio, whatever was made before."""
    return int.from_bytes(hashlib.sha256(repr((seed, list(texts), attempt)).encode()).digest()[:4], "little")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The global random states of the CPU and of `device`, set from `seed`, and restored at the end."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            generator = torch.cuda.default_generators[device.index]
            generator.manual_seed(seed)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what transformers says of its own way to call its Bark: it is nothing that a user can change."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
