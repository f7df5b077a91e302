"""The answer to a request for speech: an ASGI response that is made while it is sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.errors import UserError, about
from common.schema import check
from synthesis.engine.engine import Engine
from synthesis.engine.job import Chunk
from synthesis.engine.script import Script, plain
from synthesis.passages import Passage
from synthesis.server.admission import Admission
from synthesis.server.encoders import CONTENT_TYPES, encoder
from synthesis.server.errors import ApiError
from synthesis.server.metrics import Metrics
from synthesis.server.options import ServerOptions
from synthesis.server.shelf import Shelf, UnknownVoiceError
from synthesis.server.speech import SpeechRequest, Sse, Stream
from synthesis.speed import Speed
from synthesis.ssml import parse
from synthesis.synthesizer import Synthesizer

log = logging.getLogger("tts")


@dataclass
class Studio:
    """What the requests of one process share."""

    options: ServerOptions
    shelf: Shelf
    engine: Engine
    admission: Admission
    metrics: Metrics


class Abandoned(Exception):  # noqa: N818 (no error of ours)
    """The client has left, or takes nothing."""


class SpeechAnswer(Response):
    """Waits for the first audio, so that an error has its own status, then streams.

    If something fails later, the connection is closed before the end of the answer, so that no client takes a part for
    the whole; in server-sent events, the last one then is an error. If the client leaves, the work stops.
    """

    def __init__(self, studio: Studio, request: SpeechRequest, client: str) -> None:
        self.background = None  # as FastAPI expects of a Response
        self.studio, self.request, self.client = studio, request, client
        self.start = time.monotonic()
        self.status = 0  # that was sent
        self.audio_seconds = 0.0
        self.first_seconds: float | None = None
        self.is_abandoned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._answer(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            self.is_abandoned |= not work.done()
        finally:
            gone.cancel()
            work.cancel()
            try:
                await work
            except (asyncio.CancelledError, Abandoned):
                self.is_abandoned = True
            finally:
                self._note()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        sse: Sse | None = None
        try:
            with self.studio.admission.place(self.client):
                voice = await self._voice()
                script = Script(voice.reader, self._passages(), self.request.speed)
                sse = Sse(self.request, voice) if self.request.stream_format == "sse" else None
                async with asyncio.timeout(self.studio.options.request_seconds):
                    async with Stream(self.studio.engine, voice, script) as stream:
                        await self._send_all(stream, voice, sse, send)
        except ApiError as error:
            await self._fail(error, sse, scope, receive, send)
        except TimeoutError:
            limit = self.studio.options.request_seconds
            await self._fail(
                ApiError(503, f"the request took more than {limit:g} s", "timeout"), sse, scope, receive, send
            )

    async def _voice(self) -> Synthesizer:
        shelf, name = self.studio.shelf, self.request.voice_name
        try:
            name = shelf.find(name)
            return shelf.get(name) if shelf.is_loaded(name) else await asyncio.to_thread(shelf.get, name)
        except UnknownVoiceError as error:
            raise ApiError(404, str(error), "voice_not_found", "voice") from None
        except UserError as error:
            log.error("voice %s cannot be loaded: %s", name, error)
            raise ApiError(500, f"voice {name!r} is damaged; see the log of the server", "voice_damaged") from None

    def _passages(self) -> Sequence[Passage]:
        """The input as passages. Raises ApiError."""
        request, limit = self.request, self.studio.options.max_characters
        if len(request.input) > limit:
            message = f"input has {len(request.input):,} characters; the limit is {limit:,}: send it in parts"
            raise ApiError(400, message, "string_above_max_length", "input")
        if request.include and request.stream_format != "sse":
            raise ApiError(400, "include needs stream_format sse", "invalid_value", "include")
        if request.input_type == "text":
            return [plain(request.input)]
        try:
            passages = parse(request.input, self.studio.engine.options.pauses.at(request.speed))
            for passage in passages:
                with about("the speed of the request times that of <prosody>"):
                    check(request.speed * passage.speed, Speed, "rate")
        except UserError as error:
            raise ApiError(400, str(error), "invalid_ssml", "input") from None
        return passages

    async def _send_all(self, stream: Stream, voice: Synthesizer, sse: Sse | None, send: Send) -> None:
        chunks, parts = aiter(stream), list[Chunk]()
        encode, seconds = (
            encoder(self.request.response_format, voice.audio.sample_rate),
            self.studio.options.queue_seconds,
        )
        try:
            async with asyncio.timeout(seconds):
                while not parts or parts[-1].audio is None:
                    parts.append(await anext(chunks))
        except TimeoutError:
            message = f"no audio after {seconds:g} s: the server is busy; try again later"
            raise ApiError(503, message, "queue_timeout", retry=seconds) from None
        self.first_seconds = time.monotonic() - self.start
        await self._begin(sse, send)
        async for chunk in _chained(parts, chunks):
            if chunk.audio is not None:
                self.audio_seconds += len(chunk.audio) / voice.audio.sample_rate
                encoded = await asyncio.to_thread(encode.feed, chunk.audio)
                await self._send(sse.audio(encoded) if sse else encoded, send)
            elif chunk.piece and sse:
                await self._send(await asyncio.to_thread(sse.piece, chunk.piece), send)
        for fault in stream.job.faults:
            self.studio.metrics.faults.labels(fault.kind).inc()
        rest = await asyncio.to_thread(encode.close)
        await self._send(sse.audio(rest) + sse.done() if sse else rest, send)
        await self._send(b"", send, is_last=True)

    async def _begin(self, sse: Sse | None, send: Send) -> None:
        kind = "text/event-stream; charset=utf-8" if sse else CONTENT_TYPES[self.request.response_format]
        headers = {"content-type": kind, "cache-control": "no-store", "x-accel-buffering": "no"}
        if self.request.instructions is not None:
            headers["x-ignored-fields"] = "instructions"
        self.status = 200
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _send(self, body: bytes, send: Send, is_last: bool = False) -> None:
        """Send a part. Raises Abandoned if the client does not take it in time."""
        if body or is_last:
            try:
                async with asyncio.timeout(self.studio.options.client_seconds):
                    await send({"type": "http.response.body", "body": body, "more_body": not is_last})
            except (TimeoutError, OSError):
                raise Abandoned from None

    async def _fail(self, error: ApiError, sse: Sse | None, scope: Scope, receive: Receive, send: Send) -> None:
        if not self.status:
            self.status = error.status
            await error.response()(scope, receive, send)
            return
        log.error("a request failed after its answer had begun: %s", error.message)
        if sse:
            await self._send(sse.error(error), send)
            await self._send(b"", send, is_last=True)

    def _note(self) -> None:
        """Count and log the request; a client that left has status 499, as in other servers' logs."""
        metrics, characters = self.studio.metrics, len(self.request.input)
        status, seconds = 499 if self.is_abandoned else self.status, time.monotonic() - self.start
        metrics.requests.labels(str(status)).inc()
        metrics.duration.observe(seconds)
        metrics.audio.inc(self.audio_seconds)
        metrics.characters.inc(characters)
        first = "none"
        if self.first_seconds is not None:
            metrics.first_audio.observe(self.first_seconds)
            first = f"{self.first_seconds:.3f} s"
        text = f" input={self.request.input!r}" if self.studio.options.log_text else ""
        log.info(
            "status=%d characters=%d audio=%.1f s first_audio=%s total=%.3f s%s",
            status, characters, self.audio_seconds, first, seconds, text,
        )  # fmt: skip


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chained(parts: Sequence[Chunk], rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    for part in parts:
        yield part
    async for part in rest:
        yield part
