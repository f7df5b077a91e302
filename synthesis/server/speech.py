"""A request for speech: its fields, its way through the scheduler, and the two forms of its answer."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from synthesis.engines.protocol import TextTooLongError
from synthesis.reading import Fault
from synthesis.scheduler.job import Chunk, Job, PieceRead
from synthesis.scheduler.scheduler import ClosedError, Scheduler
from synthesis.scheduler.script import NothingToSayError, Script
from synthesis.server.encoders import SpeechFormat
from synthesis.server.errors import ApiError
from synthesis.speed import Resampler, resampled_rows
from synthesis.subtitles import word_row
from synthesis.synthesizer import Synthesizer
from synthesis.timings import piece_words

Include = Literal["words", "mel", "alignment"]
log = logging.getLogger("tts")


class VoiceId(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


class SpeechRequest(BaseModel):
    """The body of POST /v1/audio/speech: OpenAI's fields, and two more, input_type and include."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(description="A name of GET /v1/models", examples=["tts-1"])
    input: str = Field(description="The text to speak", examples=["Hello, this is a voice."])
    voice: str | VoiceId = Field(description="A name of GET /v1/audio/voices", examples=["voice"])
    instructions: str | None = Field(None, description="Accepted, and ignored: the voice has one style")
    response_format: SpeechFormat = Field("mp3", description="pcm: 24,000 Hz, 16 bits, little-endian, one channel")
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    stream_format: Literal["audio", "sse"] = Field("audio", description="The audio itself, or server-sent events")
    input_type: Literal["text", "ssml"] = Field("text", description="ssml: the part of SSML in docs/ssml.md")
    include: list[Include] = Field([], description="More events, with stream_format sse: see docs/server.md")

    @property
    def voice_name(self) -> str:
        return self.voice if isinstance(self.voice, str) else self.voice.id


class Stream:
    """The chunks of a job, for a coroutine. Leaving the block stops the work."""

    def __init__(self, scheduler: Scheduler, voice: Synthesizer, script: Script) -> None:
        self.scheduler, loop = scheduler, asyncio.get_running_loop()
        self.ready = asyncio.Event()

        def on_ready() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self.ready.set)

        try:
            self.job: Job = scheduler.submit(voice, script, on_ready)
        except ClosedError:
            raise ApiError(503, "the server is shutting down", "shutting_down", retry=10) from None

    @property
    def faults(self) -> Sequence[Fault]:
        """Of what was made so far."""
        return self.job.faults

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.scheduler.cancel(self.job)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks()

    async def _chunks(self) -> AsyncIterator[Chunk]:
        while True:
            await self.ready.wait()
            self.ready.clear()
            ended = self.job.ended
            for chunk in self.scheduler.take(self.job):
                yield chunk
            if ended:
                if self.job.error:
                    raise as_api_error(self.job.error)
                return


def as_api_error(error: Exception) -> ApiError:
    if isinstance(error, (NothingToSayError, TextTooLongError)):
        return ApiError(400, str(error), "invalid_input", "input")
    if isinstance(error, ClosedError):
        return ApiError(503, "the server is shutting down", "shutting_down", retry=10)
    log.error("the models failed on an input: %s", type(error).__name__)  # its message may hold a part of the input
    return ApiError(500, "the models failed on this input; the log of the server says more", "synthesis_failed")


class Sse:
    """Chunks -> server-sent events. Without `voice`, which an engine has not, there are none of pieces."""

    def __init__(self, request: SpeechRequest, voice: Synthesizer | None = None) -> None:
        self.include, self.voice = set(request.include), voice
        self.symbols = self.frames = 0

    def audio(self, encoded: bytes) -> bytes:
        if not encoded:
            return b""
        return event({"type": "speech.audio.delta", "audio": base64.b64encode(encoded).decode()})

    def piece(self, piece: PieceRead) -> bytes:
        """What was asked for of a piece. Times are those of the audio; spans are those of the input."""
        self.symbols += len(piece.read.ids)
        self.frames += piece.mel.shape[1]
        if not self.include or self.voice is None:
            return b""
        audio, speed = self.voice.audio, piece.line.speed
        mel, alignment = Resampler(speed).feed(piece.mel), resampled_rows(piece.alignment, speed)
        place = {"start": round(piece.start / audio.sample_rate, 4), "frames": mel.shape[1]}
        events = b""
        if "words" in self.include:
            words = piece_words(self.voice.reader, piece.read, alignment, mel, audio, place["start"])
            rows = [{**word_row(word), "span": list(piece.line.span(*word.span))} for word in words]
            events += event({"type": "speech.audio.words", "words": rows})
        if "mel" in self.include:
            seconds = audio.hop_length / audio.sample_rate
            shape = {"bins": mel.shape[0], "seconds_per_frame": round(seconds, 6)}
            low, high = torch.log(torch.tensor(audio.log_floor)), 2.0  # nepers
            events += event({"type": "speech.audio.mel", **place, **shape, "data": _bytes(mel.t(), float(low), high)})
        if "alignment" in self.include:
            shape = {"symbols": alignment.shape[1]}
            events += event({"type": "speech.audio.alignment", **place, **shape, "data": _bytes(alignment, 0.0, 1.0)})
        return events

    def done(self) -> bytes:
        """The last event. Tokens are symbols of the text and frames of the mel."""
        usage = {"input_tokens": self.symbols, "output_tokens": self.frames}
        return event({"type": "speech.audio.done", "usage": usage | {"total_tokens": sum(usage.values())}})

    def error(self, error: ApiError) -> bytes:
        return event({"type": "error", "error": error.body})


def event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def _bytes(values: Tensor, low: float, high: float) -> str:
    """Values from `low` to `high` as bytes from 0 to 255, in base64."""
    scaled = ((values - low) * (255 / (high - low))).round().clamp(0, 255)
    return base64.b64encode(scaled.numpy().astype(np.uint8).tobytes()).decode()
