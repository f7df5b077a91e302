"""The answer to a request for speech: an ASGI response that is made while it is sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from synthesis.passages import Passage
from synthesis.reader import Reader
from synthesis.reading import Fault
from synthesis.scheduler.job import Chunk
from synthesis.scheduler.script import Script
from synthesis.server.encoders import CONTENT_TYPES, encoder
from synthesis.server.engines import EngineStream
from synthesis.server.errors import ApiError
from synthesis.server.speech import SpeechRequest, Sse, Stream
from synthesis.server.studio import Record, Studio

log = logging.getLogger("tts")


class SpeechAnswer(Response):
    """Waits for the first audio, so that an error has its own status, then streams.

    If something fails later, the connection is reset, so that no client takes a part for the whole; in server-sent
    events, the last one then is an error. If the client leaves, the work stops.
    """

    def __init__(self, studio: Studio, request: SpeechRequest, client: str) -> None:
        self.background = None  # as FastAPI expects of a Response
        self.studio, self.request, self.client = studio, request, client
        self.record = Record(request.input)
        self.faults: Sequence[Fault] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.create_task(self._answer(scope, receive, send))
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            self.record.is_abandoned |= not work.done()
        finally:
            gone.cancel()
            work.cancel()
            try:
                await work
            except asyncio.CancelledError:
                self.record.is_abandoned = True
            finally:
                self.studio.note(self.record, self.faults)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        sse: Sse | None = None
        try:
            with self.studio.admission.place(self.client):
                made, sample_rate, sse = await self._begun()
                async with asyncio.timeout(self.studio.options.request_seconds):
                    async with made as stream:
                        await self._send_all(stream, sample_rate, sse, send)
        except ApiError as error:
            await self._fail(error, sse, scope, receive, send)
        except TimeoutError:
            limit = self.studio.options.request_seconds
            await self._fail(
                ApiError(503, f"the request took more than {limit:g} s", "timeout"), sse, scope, receive, send
            )
        except Exception:
            log.exception("a request failed")
            await self._fail(
                ApiError(500, "the server failed; its log says more", "internal_error"), sse, scope, receive, send
            )

    async def _begun(self) -> tuple[Stream | EngineStream, int, Sse | None]:
        """What makes the audio, its sample rate, and the events. Raises ApiError."""
        request, is_sse = self.request, self.request.stream_format == "sse"
        if request.model in self.studio.engines:
            engine, turns = await self.studio.engine(request), self.studio.engines[request.model].turns
            return (
                EngineStream(engine, turns, request.input, self.studio.engine_options),
                engine.audio.sample_rate,
                (Sse(request) if is_sse else None),
            )
        voice = await self.studio.voice(request.voice_name)
        script = Script(voice.reader, self._passages(voice.reader), request.speed)
        sse = Sse(request, voice) if is_sse else None
        return Stream(self.studio.scheduler, voice, script), voice.audio.sample_rate, sse

    def _passages(self, reader: Reader) -> Sequence[Passage]:
        """The input as passages. Raises ApiError."""
        request = self.request
        passages = self.studio.passages(request.input, request.input_type, reader, request.speed)
        if request.include and request.stream_format != "sse":
            raise ApiError(400, "include needs stream_format sse", "invalid_value", "include")
        return passages

    async def _send_all(self, stream: Stream | EngineStream, sample_rate: int, sse: Sse | None, send: Send) -> None:
        chunks, parts = aiter(stream), list[Chunk]()
        encode, seconds = encoder(self.request.response_format, sample_rate), self.studio.options.queue_seconds
        try:
            async with asyncio.timeout(seconds):
                while not parts or parts[-1].audio is None:
                    parts.append(await anext(chunks))
        except TimeoutError:
            message = f"no audio after {seconds:g} s: the server is busy; try again later"
            raise ApiError(503, message, "queue_timeout", retry=seconds) from None
        self.record.audio_begins()
        await self._begin(sse, send)
        async for chunk in _chained(parts, chunks):
            if chunk.audio is not None:
                self.record.audio_seconds += len(chunk.audio) / sample_rate
                encoded = await asyncio.to_thread(encode.feed, chunk.audio)
                await self._send(sse.audio(encoded) if sse else encoded, send)
            elif chunk.piece and sse:
                await self._send(await asyncio.to_thread(sse.piece, chunk.piece), send)
        self.faults = stream.faults
        rest = await asyncio.to_thread(encode.close)
        await self._send(sse.audio(rest) + sse.done() if sse else rest, send)
        await self._send(b"", send, is_last=True)

    async def _begin(self, sse: Sse | None, send: Send) -> None:
        kind = "text/event-stream; charset=utf-8" if sse else CONTENT_TYPES[self.request.response_format]
        headers = {"content-type": kind, "cache-control": "no-store", "x-accel-buffering": "no"}
        if self.request.instructions is not None:
            headers["x-ignored-fields"] = "instructions"
        self.record.status = 200
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})

    async def _send(self, body: bytes, send: Send, is_last: bool = False) -> None:
        """Send a part. If the client does not take it in time, the connection ends: it has left."""
        if body or is_last:
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})

    async def _fail(self, error: ApiError, sse: Sse | None, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun, self.record.status = self.record.status == 200, error.status
        if not has_begun:
            await error.response()(scope, receive, send)
            return
        log.error("a request failed after its answer had begun: %s", error.message)
        if sse:
            await self._send(sse.error(error), send)
            await self._send(b"", send, is_last=True)
        else:
            scope["state"]["abort"]()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _chained(parts: Sequence[Chunk], rest: AsyncIterator[Chunk]) -> AsyncIterator[Chunk]:
    for part in parts:
        yield part
    async for part in rest:
        yield part
