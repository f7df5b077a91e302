"""The Wyoming protocol, for Home Assistant: events over TCP, each a line of JSON with data and payload behind it.

`describe` is answered by `info`. A `synthesize` is answered by audio-start, audio-chunk..., audio-stop. A text that
still arrives is synthesize-start, synthesize-chunk..., synthesize-stop; its audio begins as soon as a part of it is
certain, and ends with audio-stop and synthesize-stopped. Home Assistant repeats the whole text as a `synthesize` before
synthesize-stop, for servers without this; here, that one is ignored.

An error is told as an `error` event, and then the connection ends: Home Assistant waits for the end of the audio, or of
the connection. A client that closes its side of the connection has left, and its work stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event, Eventable, async_write_event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped

from synthesis.audio_file import in_16_bits
from synthesis.reading import Fault
from synthesis.scheduler.script import Script
from synthesis.server.errors import ApiError
from synthesis.server.shelf import Shelf
from synthesis.server.speech import Stream
from synthesis.server.studio import Abandoned, Record, Studio
from synthesis.synthesizer import Synthesizer

SAMPLES = 1024  # of an audio-chunk
TEXT_SECONDS = 120.0  # that a text which arrives in parts may pause
WAITING = 16  # events of a client that are read ahead
FIELDS = {"text", "text_format", "voice", "name", "language", "speaker"}  # that this server reads
LINGER_SECONDS = 2.0  # that a client has to read the last event
NAME = "tacotron2-waveglow"
log = logging.getLogger("tts")


class Wyoming:
    """The server on one listening socket. It has at most twice as many connections as there may be requests."""

    def __init__(self, studio: Studio, listener: socket.socket) -> None:
        self.studio, self.listener = studio, listener
        self.connections: dict[asyncio.Task[None], Connection] = {}
        self.server: asyncio.Server | None = None

    async def start(self) -> None:
        info = (await asyncio.to_thread(describe, self.studio.shelf)).event()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection(self.studio, info, reader, writer)
            if len(self.connections) >= 2 * self.studio.admission.total:
                writer.close()
                return
            task = asyncio.create_task(connection.run())
            self.connections[task] = connection
            task.add_done_callback(lambda task: self.connections.pop(task))

        limit = self.studio.options.max_body_bytes
        self.server = await asyncio.start_server(connected, sock=self.listener, limit=limit)

    async def close(self) -> None:
        """Refuse what is new, and wait for what is running."""
        if self.server:
            self.server.close()
        for task, connection in self.connections.items():
            connection.is_closing = True
            if not connection.is_busy:
                task.cancel()
        if self.connections:
            await asyncio.wait(self.connections)


def describe(shelf: Shelf) -> Info:
    """What `describe` is answered with."""
    attribution = Attribution(name=NAME, url="")
    voices = [
        TtsVoice(name, attribution, True, title, None, languages=[shelf.language(name)])
        for name, title in shelf.names().items()
    ]
    return Info(
        tts=[
            TtsProgram(
                NAME, attribution, True, "Tacotron 2 + WaveGlow", None, voices, supports_synthesize_streaming=True
            )
        ]
    )


class GarbageError(ValueError):
    """This is no event."""


async def read_event(reader: asyncio.StreamReader, max_bytes: int) -> Event | None:
    """The next event; None: there is no more. Raises GarbageError.

    The package's own function holds as many bytes as an event announces. The line is limited by `reader`.
    """
    try:
        if not (line := await reader.readline()):
            return None
        head = _object(json.loads(line))
        sizes = [head.get(key) or 0 for key in ("data_length", "payload_length")]
        if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) > max_bytes:
            raise GarbageError(f"lengths are whole numbers, {max_bytes:,} bytes at most")
        data = _object(head.get("data") or {})
        if sizes[0]:
            data |= _object(json.loads(await reader.readexactly(sizes[0])))
        data = _needed(data)
        await reader.readexactly(sizes[1])  # no event that this server reads has a payload
    except asyncio.IncompleteReadError:
        return None
    except GarbageError:
        raise
    except (ValueError, RecursionError):
        raise GarbageError(f"an event is a line of JSON, {max_bytes:,} bytes at most") from None
    if not isinstance(head.get("type"), str):
        raise GarbageError("an event has a type")
    return Event(head["type"], data)


def _needed(value: dict[str, Any]) -> dict[str, Any]:
    """What this server reads of an event, which may wait for long: 1 MB of nested lists takes 20 MB."""
    found = {name: value[name] for name in FIELDS & value.keys()}
    for name, inner in found.items():
        if isinstance(inner, dict):
            found[name] = _needed(inner)
        elif isinstance(inner, list):
            found[name] = []  # refused, if it is looked at
    return found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise GarbageError("an event is an object of JSON")
    return value


class Connection:
    """A client. One task reads its events, as far ahead as WAITING; another one answers them in their order."""

    def __init__(self, studio: Studio, info: Event, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.studio, self.info, self.reader, self.writer = studio, info, reader, writer
        self.client = str((writer.get_extra_info("peername") or ("",))[0])
        self.events: asyncio.Queue[Event | None] = asyncio.Queue(WAITING)  # None: the last
        self.is_busy = self.is_closing = False

    async def run(self) -> None:
        """Answer events until the client leaves, fails or waits too long."""
        self.reading = asyncio.create_task(self._read())
        self.reading.add_done_callback(lambda task: task.cancelled() or task.exception())  # else it would be logged
        try:
            while not self.is_closing and (event := await self.next_event(self.studio.options.client_seconds)):
                await self.answer(event)
        except (Abandoned, TimeoutError):
            pass
        except (ApiError, GarbageError) as error:
            await self._refuse(error)
        except Exception:
            log.exception("a connection of Wyoming failed")
        finally:
            self.reading.cancel()
            self.writer.close()

    async def _read(self) -> None:
        """Raises GarbageError, after all that came before it was put."""
        try:
            while event := await read_event(self.reader, self.studio.options.max_body_bytes):
                await self.events.put(event)
        except OSError:
            pass
        finally:
            with contextlib.suppress(asyncio.QueueFull):  # then what is running ends by itself
                self.events.put_nowait(None)

    async def next_event(self, seconds: float) -> Event | None:
        """The next event; None: there is none. Raises GarbageError, or TimeoutError."""
        if self.reading.done() and self.events.empty():
            event = None
        else:
            event = await asyncio.wait_for(self.events.get(), seconds)
        if event is None:
            await self.reading
        return event

    async def answer(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write(self.info)
        elif Ping.is_type(event.type):
            await self.write(Pong(_field(event.data, "text", str)).event())
        elif Synthesize.is_type(event.type) or SynthesizeStart.is_type(event.type):
            self.is_busy = True
            await Speech(self, event).run()
            self.is_busy = False
        elif SynthesizeChunk.is_type(event.type) or SynthesizeStop.is_type(event.type):
            raise ApiError(400, f"{event.type} needs a synthesize-start before it", "invalid_event")
        # Others are ignored, as the protocol wants.

    async def write(self, event: Event | Eventable) -> None:
        """Send an event. Raises Abandoned if the client does not take it in time."""
        try:
            async with asyncio.timeout(self.studio.options.client_seconds):
                await async_write_event(event if isinstance(event, Event) else event.event(), self.writer)
        except UnicodeEncodeError:
            raise GarbageError("half of a surrogate pair is no text") from None
        except (TimeoutError, OSError):
            self.writer.transport.abort()  # it would wait for the client to take the rest
            raise Abandoned from None

    async def _refuse(self, error: ApiError | GarbageError) -> None:
        """Tell an error, and end. What the client still sends is read, so that its system does not drop the event."""
        self.reading.cancel()
        code = error.code if isinstance(error, ApiError) else "invalid_event"
        with contextlib.suppress(Abandoned, OSError, TimeoutError):
            text = str(error).encode("utf-8", "replace").decode()  # which may be of the client's
            await self.write(Error(text, code))
            self.writer.write_eof()
            async with asyncio.timeout(LINGER_SECONDS):
                await asyncio.wait((self.reading,))
                while await self.reader.read(2**16):
                    pass


def _field(data: Mapping[str, Any], name: str, kind: type[Any], is_needed: bool = False) -> Any:
    """A field of an event; None if it is absent. Raises ApiError if it is of another type."""
    value = data.get(name)
    if value is None and not is_needed:
        return None
    if not isinstance(value, kind):
        wanted = {"str": "text", "dict": "an object"}[kind.__name__]
        raise ApiError(400, f"{name} is {wanted}, not {json.dumps(value)[:60]}", "invalid_value", name)
    return value


class Speech:
    """The answer to one synthesize, or to one text in parts."""

    def __init__(self, connection: Connection, start: Event) -> None:
        self.connection, self.studio, self.data = connection, connection.studio, start.data
        self.in_parts = SynthesizeStart.is_type(start.type)
        self.record = Record(protocol="wyoming ")
        self.faults: Sequence[Fault] = ()
        self.first_audio = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Raises ApiError, GarbageError or Abandoned."""
        self.record.is_abandoned = True  # unless something else is found
        limit = self.studio.options.request_seconds
        try:
            try:
                with self.studio.admission.place(self.connection.client):
                    async with asyncio.timeout(limit):
                        await self._speak()
            except TimeoutError:
                raise ApiError(503, f"the request took more than {limit:g} s", "timeout") from None
            self.record.status, self.record.is_abandoned = 200, False
        except ApiError as error:
            self.record.status, self.record.is_abandoned = error.status, False
            raise
        finally:
            self.studio.note(self.record, self.faults)

    async def _speak(self) -> None:
        kind = self._kind()
        text = "" if self.in_parts else _field(self.data, "text", str, is_needed=True)
        self.record.text = text
        name = self._voice_name()
        self.studio.check_length(len(text))
        voice = await self.studio.voice(name)
        passages = None if self.in_parts else self.studio.passages(text, kind, voice.reader)
        async with Stream(self.studio.scheduler, voice, Script(voice.reader, passages)) as stream:
            sending = asyncio.create_task(self._send(stream, voice))
            watching = asyncio.create_task(self._feed(stream) if self.in_parts else self._watch())
            try:
                await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sending.cancel()
                watching.cancel()
                await asyncio.gather(sending, watching, return_exceptions=True)
            if sending.cancelled():
                await watching  # which raises
            await sending
            self.faults = stream.faults
        if self.in_parts:
            await self.connection.write(SynthesizeStopped())

    def _kind(self) -> Literal["text", "ssml"]:
        kind = self.data.get("text_format")
        if kind not in (None, "text", "ssml"):
            raise ApiError(400, f"text_format {json.dumps(kind)[:60]} is unknown; use text or ssml", "invalid_value")
        if self.in_parts and kind == "ssml":
            raise ApiError(400, "text_format ssml needs the whole document in one synthesize", "invalid_value")
        return "ssml" if kind == "ssml" else "text"

    def _voice_name(self) -> str:
        """The voice that was asked for, or the first. Raises ApiError rather than to take another one."""
        shelf, wanted = self.studio.shelf, _field(self.data, "voice", dict) or {}
        name, language, speaker = (_field(wanted, key, str) for key in ("name", "language", "speaker"))
        if speaker is not None:
            if name is not None and f"{name}/{speaker}" in shelf.voices:
                return f"{name}/{speaker}"
            message = f"speaker {speaker[:60]!r} is unknown; the voices are: {', '.join(shelf.names())}"
            raise ApiError(400, message, "invalid_value")
        if name is not None:
            return str(name)
        if language is None:
            return next(iter(shelf.voices))
        spoken = {shelf.language(voice): voice for voice in reversed(shelf.voices)}
        if language.replace("_", "-").split("-")[0].lower() not in spoken:
            message = f"language {language[:60]!r} has no voice; the languages are: {', '.join(spoken)}"
            raise ApiError(404, message, "voice_not_found")
        return spoken[language.replace("_", "-").split("-")[0].lower()]

    async def _feed(self, stream: Stream) -> None:
        """Pass on the parts of the text, then watch."""
        while True:
            try:
                event = await self.connection.next_event(TEXT_SECONDS)
            except TimeoutError:
                raise ApiError(408, f"no text came for {TEXT_SECONDS:g} s", "timeout") from None
            if event is None:
                raise Abandoned
            if SynthesizeStop.is_type(event.type):
                break
            if SynthesizeChunk.is_type(event.type):
                self.record.text += _field(event.data, "text", str, is_needed=True)
                self.studio.check_length(len(self.record.text))
                await asyncio.to_thread(self.studio.scheduler.feed, stream.job, event.data["text"])
            elif SynthesizeStart.is_type(event.type):
                raise ApiError(400, "a text in parts has not ended yet; send synthesize-stop first", "invalid_event")
            elif not Synthesize.is_type(event.type):
                await self.connection.answer(event)
        await asyncio.to_thread(self.studio.scheduler.feed, stream.job, None)
        await self._watch()

    async def _watch(self) -> None:
        """The text is complete. Raises ApiError if no audio comes in time, and Abandoned when the client leaves."""
        reading, seconds = self.connection.reading, self.studio.options.queue_seconds
        await asyncio.wait((reading, self.first_audio), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not reading.done() and not self.first_audio.done():
            message = f"no audio after {seconds:g} s: the server is busy; try again later"
            raise ApiError(503, message, "queue_timeout", retry=seconds)
        await asyncio.wait((reading,))
        await reading
        raise Abandoned

    async def _send(self, stream: Stream, voice: Synthesizer) -> None:
        rate = voice.audio.sample_rate
        async for chunk in stream:
            if chunk.audio is not None and len(chunk.audio):
                if not self.first_audio.done():
                    self.first_audio.set_result(None)
                    self.record.audio_begins()
                    await self.connection.write(AudioStart(rate, 2, 1, timestamp=0))
                await self._send_part(chunk.audio, rate)
        await self.connection.write(AudioStop(timestamp=self._milliseconds()))

    async def _send_part(self, audio: Tensor, rate: int) -> None:
        samples = in_16_bits(audio)
        for start in range(0, len(samples), SAMPLES):
            part = samples[start : start + SAMPLES]
            await self.connection.write(AudioChunk(rate, 2, 1, part.tobytes(), timestamp=self._milliseconds()))
            self.record.audio_seconds += len(part) / rate

    def _milliseconds(self) -> int:
        return int(1000 * self.record.audio_seconds)
