"""Text to audio: Tacotron 2, then a vocoder."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.checkpoint import formats
from common.device import resolve_device
from common.errors import UserError, about
from common.schema import Index, NonNegative, check
from synthesis.loudness import LoudnessMeter
from synthesis.models import MODELS, load_checkpoint
from synthesis.options import SpeechOptions
from synthesis.playing import Playable, play
from synthesis.reader import Read, Reader
from synthesis.reading import Decoded, Fault, described
from synthesis.speed import Resampler, resampled_rows
from synthesis.text_to_mel import TextToMel, for_vocoder
from synthesis.utterance import Part, Utterance, with_speed
from synthesis.vocoder import SpeechPrecision, Vocoder, total_latency
from synthesis.voices import VOICES, Voice, is_voice
from tacotron2.model import Tacotron2
from tacotron2.speaker_names import speaker_id
from tacotron2.text import SYMBOLS, Lexicon, left_out

SORTED_BATCHES = 8  # batches of pieces that are sorted by length together
BATCH_SYMBOLS = 16_000  # bounds the memory of a batch: 80 texts of the longest length


class Synthesizer:
    """Text to audio: `speak` takes one text, `batches` takes many, `stream` gives audio before a text is finished.

    Several threads may use it at once. Messages call Tacotron 2's checkpoint `source`.
    """

    name: ClassVar[str] = "tacotron2"  # among the engines, see engines/protocol.py

    def __init__(
        self,
        tacotron2: Tacotron2,
        vocoder: Vocoder,
        reader: Reader | None = None,
        precision: SpeechPrecision = "fp32",
        source: str = "tacotron2",
    ) -> None:
        self.tacotron2, self.vocoder, self.audio = tacotron2, vocoder, vocoder.audio
        self.reader = reader or Reader("english_cleaners", SYMBOLS)
        self.text_to_mel = TextToMel(tacotron2, self.reader, self.audio, precision, source)
        self.device, self.source = self.text_to_mel.device, source

    @classmethod
    def load(
        cls,
        tacotron2: str | Path | Voice,
        waveglow: str | Path | None = None,
        device: str | torch.device = "auto",
        precision: SpeechPrecision = "fp32",
        match_mel: int | None = None,
        postfilter_strength: float = 1.0,
        lexicon: str | Path | None = None,
        griffin_lim: bool = False,
        **overrides: Any,
    ) -> Synthesizer:
        """Load a voice by its folder or name, see `Voice`; or from checkpoints or run directories, and then without
        `waveglow` the vocoder is Griffin-Lim.

        match_mel: number of MelMatch passes; None: WaveGlow's own.
        postfilter_strength: strength of Tacotron 2's global-variance postfilter; 0: off.
        lexicon: file of words and their readings, see `Lexicon`; it comes before the voice's own.
        griffin_lim: the vocoder, in place of WaveGlow.
        overrides: fields of Tacotron 2's config; and `speaker`, who speaks where no other speaker is chosen.
        """
        speaker = overrides.pop("speaker", None)
        check(match_mel, Index, "match_mel")
        check(postfilter_strength, NonNegative, "postfilter_strength")
        lexicons = [] if lexicon is None else [lexicon]
        if not isinstance(tacotron2, Voice) and any(map(is_voice, (Path(tacotron2), VOICES / tacotron2))):
            tacotron2 = Voice.find(tacotron2)
        if isinstance(tacotron2, Voice):
            voice, tacotron2 = tacotron2, tacotron2.tacotron2
            lexicons, waveglow = [*filter(None, [voice.lexicon]), *lexicons], waveglow or voice.waveglow
        waveglow = None if griffin_lim else waveglow
        words = Lexicon.load(*lexicons) if lexicons else None
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
        reader = Reader(text.cleaners, text.symbols, text.limit, words, text.language)
        made = cls(model, vocoder, reader, precision, f"tacotron2={tacotron2}")
        return made if speaker is None else made.speaking_as(speaker)

    @property
    def cleaners(self) -> str:
        return self.reader.cleaners

    @property
    def symbols(self) -> Sequence[str]:
        return self.reader.symbols

    @property
    def speakers(self) -> Sequence[str]:
        """The names that `speaker` may have; none if the voice has one speaker."""
        return self.tacotron2.config.speakers

    def speaking_as(self, speaker: str) -> Synthesizer:
        """The same models with a speaker, where no other is chosen. Raises UserError, with the names there are."""
        other = copy.copy(self)
        other.reader = self.reader_of(speaker)
        return other

    def reader_of(self, speaker: str | None = None) -> Reader:
        """The reader for a speaker, or for the one that is set. Raises UserError if this is none of those there are."""
        if speaker is None and (self.reader.speaker is not None or not self.speakers):
            return self.reader
        return self.reader.speaking_as(speaker_id(speaker, self.speakers))

    def speak(self, text: str, **options: Any) -> Utterance:
        """Synthesize one text; `options` are the fields of SpeechOptions.

        Characters that the model has no symbol for are left out, with a warning; `Utterance.dropped` lists them. Raises
        UserError if nothing is left.
        """
        utterance = next(self.batches([text], **options))[0]
        if utterance is None:
            raise self._nothing_left(text)
        _warn(utterance.dropped, utterance.faults)
        return utterance

    def batches(
        self,
        texts: Sequence[str],
        batch_size: int = 1,
        speakers: Sequence[str | None] | None = None,
        **options: Any,
    ) -> Iterator[list[Utterance | None]]:
        """Synthesize `texts` in their order, `batch_size` at a time; None stands for a text with nothing to say.

        `speakers` are those of the texts, if they differ.

        A text is synthesized in pieces, see `Splitter`; a batch may hold pieces of several texts. `Utterance.dropped`
        lists what was left out of each text, without a warning. `options` are the fields of SpeechOptions. A model that
        gives NaN or infinity raises a UserError, which names the checkpoint and the text.
        """
        utterances = self._utterances(texts, batch_size, SpeechOptions(**options), speakers)
        while batch := list(itertools.islice(utterances, batch_size)):
            yield batch

    def _utterances(
        self, texts: Iterable[str], batch_size: int, options: SpeechOptions, speakers: Iterable[str | None] | None
    ) -> Iterator[Utterance | None]:
        for _, group in itertools.groupby(self.parts(texts, batch_size, options, speakers), lambda part: part.number):
            parts = list(group)
            audible = [(part.read, part.utterance) for part in parts if part.read and part.utterance]
            pauses = options.pauses.at(options.speed)
            utterance = Utterance.joined(audible, pauses, self.audio, self.reader) if audible else None
            if utterance:
                utterance.audio = _at_loudness(utterance.audio, options.loudness, self.audio.sample_rate)
                dropped = (symbol for part in parts if part.read for symbol in part.read.dropped)
                utterance.dropped = list(dict.fromkeys(dropped))
            yield utterance

    def parts(
        self,
        texts: Iterable[str],
        batch_size: int,
        options: SpeechOptions,
        speakers: Iterable[str | None] | None = None,
    ) -> Iterator[Part]:
        """Synthesize `texts` piece by piece, in their order, in memory that does not grow with their lengths.

        `speakers` are those of the texts; None, for one or for all: that of the options.
        """
        names = itertools.repeat(None) if speakers is None else speakers
        reads = _numbered((text, self.reader_of(name or options.speaker)) for text, name in zip(texts, names))  # noqa: B905
        while window := list(itertools.islice(reads, batch_size * (SORTED_BATCHES if batch_size > 1 else 1))):
            ids = [read.ids if read else [] for _, read, _ in window]
            order = sorted((k for k in range(len(window)) if ids[k]), key=lambda k: len(ids[k]))
            found: dict[int, list[tuple[Read, Decoded]]] = {}
            for batch in _batches(order, list(map(len, ids)), batch_size):
                pieces = [read for _, read, _ in (window[k] for k in batch) if read]
                found.update(zip(batch, self.text_to_mel(pieces, options), strict=True))
            for k, (number, read, is_last) in enumerate(window):
                spoken = found.pop(k, [])
                for i, (piece, decoded) in enumerate(spoken, 1):
                    yield Part(number, piece, self._vocode(piece, decoded, options), is_last and i == len(spoken))
                if not spoken:
                    yield Part(number, read, None, is_last)

    def stream(self, text: str | Iterable[str], **options: Any) -> Iterator[Tensor]:
        """Synthesize one text, and yield its audio (N) in parts on the CPU while the decoder is running.

        The text may arrive in chunks too. Together, the parts equal the audio of `speak` within 1e-4 of full scale. The
        time to the first part and the memory do not depend on the length of the text. `options` are the fields of
        SpeechOptions. Warnings and errors are those of `speak`.

        The first piece is heard while it is decoded, so it is not tried again. Each of the others is decoded before its
        first part is given.
        """
        chosen, dropped, wrong, is_silent = SpeechOptions(**options), dict[str, None](), list[Fault](), True
        if chosen.loudness is not None:
            raise UserError(f"loudness={chosen.loudness} is not for a stream: its loudness is known at its end")
        for part in play(self._playables(text, chosen, dropped, wrong), self.vocoder, chosen):
            assert part is not None, "no piece has to be waited for"
            is_silent = False
            yield part
        if is_silent:
            raise self._nothing_left(text if isinstance(text, str) else "a stream")
        _warn(list(dropped), wrong)

    def _playables(
        self, text: str | Iterable[str], options: SpeechOptions, dropped: dict[str, None], wrong: list[Fault]
    ) -> Iterator[Playable]:
        pauses, is_first = options.pauses.at(options.speed), True
        for read in self.reader_of(options.speaker).read(text):
            dropped.update(dict.fromkeys(read.dropped))
            if read.ids and is_first:
                mels = self.text_to_mel.stream(read, options, wrong)
                yield Playable(read, mels, options.speed, pauses.after(read.piece.pause))
                is_first = False
            elif read.ids:
                for piece, decoded in self.text_to_mel([read], options)[0]:
                    wrong += decoded.faults
                    pause = pauses.after(piece.piece.pause)
                    yield Playable(piece, decoded.mel, options.speed, pause)

    def check_length(self, text: str) -> None:
        """A text of any length is cut into pieces that the model can read."""

    def warm_up(self) -> None:
        """Speak, so that the first request does not wait for what is compiled and imported at its first use."""
        anyone = self.speakers[0] if self.speakers else None
        options = SpeechOptions(max_decoder_steps=100, speaker=anyone)
        list(play(self._playables("One, 2.", options, {}, []), self.vocoder, options))

    def ids(self, text: str) -> list[int]:
        """The symbol ids of `text`; empty if there is nothing to say."""
        return self.reader.encode(text).ids

    def dropped(self, text: str) -> list[str]:
        """The parts of `text` that the model has no symbol for; see `Encoded`."""
        return self.reader.encode(text).dropped

    def _nothing_left(self, text: str) -> UserError:
        return UserError(f"nothing is left of {text[:60]!r} after {self.cleaners}; use the symbols of the model")

    def _vocode(self, read: Read, decoded: Decoded, options: SpeechOptions) -> Utterance:
        mel, alignment = Resampler(options.speed).feed(decoded.mel), resampled_rows(decoded.alignment, options.speed)
        with about(read.name):
            audio, vocoder_stats = self.vocoder(
                mel, for_vocoder(options.seed, read.ids, self.device), options.sigma, options.denoiser_strength
            )
        stats = {
            "tacotron2_items_per_sec": decoded.mel.shape[1] / decoded.seconds,
            "tacotron2_latency": decoded.seconds,
            **vocoder_stats,
        }
        stats["latency"] = total_latency(stats)
        stats["audio_seconds"] = len(audio) / self.audio.sample_rate
        utterance = Utterance(
            audio, mel.cpu(), [alignment], decoded.truncated, with_speed(stats), faults=decoded.faults
        )
        utterance.of_piece(read, self.reader, self.audio)
        return utterance


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


def _at_loudness(audio: Tensor, target: float | None, sample_rate: int) -> Tensor:
    if target is None:
        return audio
    meter = LoudnessMeter(sample_rate)
    meter.add(audio)
    return audio * meter.gain(target)[0]


def _numbered(texts: Iterable[tuple[str, Reader]]) -> Iterator[tuple[int, Read | None, bool]]:
    """Yield (number of the text, piece, whether it is the last) for all `texts`, each with the one who reads it.

    The piece of an empty text is None.
    """
    for number, (text, reader) in enumerate(texts):
        before: Read | None = None
        for read in reader.read(text):
            if before:
                yield number, before, False
            before = read
        yield number, before, True


def _warn(dropped: Sequence[str], wrong: Sequence[Fault]) -> None:
    if dropped:
        warnings.warn(left_out(dropped), stacklevel=3)
    if wrong:
        warnings.warn(f"not read right: {described(wrong)}", stacklevel=3)
