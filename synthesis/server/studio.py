"""What the requests of one process share, and what all of them do, whatever their protocol."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from common.errors import UserError
from synthesis.engines.protocol import UnknownVoiceError, VoicedEngine
from synthesis.options import SpeechOptions
from synthesis.passages import Passage
from synthesis.reader import Reader
from synthesis.reading import Fault
from synthesis.scheduler.scheduler import Scheduler
from synthesis.scheduler.script import marked_up, plain
from synthesis.server.admission import Admission
from synthesis.server.engines import EngineModel
from synthesis.server.errors import ApiError
from synthesis.server.metrics import Metrics
from synthesis.server.options import ServerOptions
from synthesis.server.shelf import Shelf
from synthesis.server.speech import SpeechRequest
from synthesis.synthesizer import Synthesizer

log = logging.getLogger("tts")


class Abandoned(Exception):  # noqa: N818 (no error of ours)
    """The client has left, or takes nothing."""


@dataclass
class Studio:
    options: ServerOptions
    shelf: Shelf
    scheduler: Scheduler
    admission: Admission
    metrics: Metrics
    engines: Mapping[str, EngineModel] = field(default_factory=dict)  # further models, by their names

    async def voice(self, name: str) -> Synthesizer:
        """The voice that a request names. Raises ApiError."""
        try:
            name = self.shelf.find(name)
            return self.shelf.get(name) if self.shelf.is_loaded(name) else await asyncio.to_thread(self.shelf.get, name)
        except UnknownVoiceError as error:
            raise ApiError(404, str(error), "voice_not_found", "voice") from None
        except UserError as error:
            log.error("voice %s cannot be loaded: %s", name, error)
            raise ApiError(500, f"voice {name!r} is damaged; see the log of the server", "voice_damaged") from None

    async def engine(self, request: SpeechRequest) -> VoicedEngine:
        """The engine and the voice that a request names. Raises ApiError, also for what an engine does not have."""
        self.check_length(len(request.input))
        for name in ("speed", "input_type", "include"):
            if getattr(request, name) != SpeechRequest.model_fields[name].default:
                raise ApiError(400, f"{name}: the model {request.model} has none; leave it out", "invalid_value", name)
        engine = await self._engine(request.model)
        try:
            return await asyncio.to_thread(engine.speaking_as, request.voice_name)
        except UnknownVoiceError as error:
            raise ApiError(404, str(error), "voice_not_found", "voice") from None
        except UserError as error:
            log.error("voice %s of model %s cannot be loaded: %s", request.voice_name, request.model, error)
            message = f"voice {request.voice_name!r} is damaged; see the log of the server"
            raise ApiError(500, message, "voice_damaged") from None

    async def engine_voices(self, model: str) -> Sequence[str]:
        """The voices of an engine, which is loaded for it. Raises ApiError."""
        return (await self._engine(model)).voices

    async def _engine(self, model: str) -> VoicedEngine:
        try:
            return await self.engines[model].get()
        except UserError as error:
            log.error("model %s cannot be loaded: %s", model, error)
            message = f"model {model!r} cannot be loaded; see the log of the server"
            raise ApiError(500, message, "model_damaged") from None

    @property
    def engine_options(self) -> SpeechOptions:
        """How engines synthesize."""
        return SpeechOptions(seed=self.options.seed)

    def passages(
        self, text: str, kind: Literal["text", "ssml"], reader: Reader, speed: float = 1.0
    ) -> Sequence[Passage]:
        """A text for the voice of `reader` as passages. Raises ApiError."""
        self.check_length(len(text))
        if kind == "text":
            return [plain(text)]
        try:
            return marked_up(text, self.scheduler.options.pauses, speed, reader)
        except UserError as error:
            raise ApiError(400, str(error), "invalid_ssml", "input") from None

    def check_length(self, num_characters: int) -> None:
        """Raise ApiError if a text is too long."""
        if num_characters > (limit := self.options.max_characters):
            message = f"input has {num_characters:,} characters; the limit is {limit:,}: send it in parts"
            raise ApiError(400, message, "string_above_max_length", "input")

    def note(self, record: Record, faults: Iterable[Fault] = ()) -> None:
        """Count and log a request; a client that left has status 499, as in other servers' logs."""
        metrics, characters = self.metrics, len(record.text)
        status, seconds = 499 if record.is_abandoned else record.status, time.monotonic() - record.start
        metrics.requests.labels(str(status)).inc()
        metrics.duration.observe(seconds)
        metrics.audio.inc(record.audio_seconds)
        metrics.characters.inc(characters)
        for fault in faults:
            metrics.faults.labels(fault.kind).inc()
        first = "none"
        if record.first_seconds is not None:
            metrics.first_audio.observe(record.first_seconds)
            first = f"{record.first_seconds:.3f} s"
        text = f" input={record.text!r}" if self.options.log_text else ""
        log.info(
            "%sstatus=%d characters=%d audio=%.1f s first_audio=%s total=%.3f s%s",
            record.protocol, status, characters, record.audio_seconds, first, seconds, text,
        )  # fmt: skip


@dataclass
class Record:
    """What the log tells of a request."""

    text: str = ""
    protocol: str = ""  # before the rest of the line
    status: int = 0  # that was sent, or should have been: a failure may come after the start
    audio_seconds: float = 0.0
    first_seconds: float | None = None
    is_abandoned: bool = False
    start: float = field(default_factory=time.monotonic)

    def audio_begins(self) -> None:
        self.first_seconds = time.monotonic() - self.start
