"""The Wyoming protocol, with the client of its own package."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import torch
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeTextFormat,
    SynthesizeVoice,
)

from inference import Synthesizer
from synthesis.audio_file import in_16_bits
from synthesis.server.wyoming import SAMPLES, read_event
from tests.helpers import wait_until
from tests.helpers.server import VOICE, Running, running

TEXT = "Hello there. It costs $5.20! And then we went home, by the last train."
ENOUGH = 50  # characters of it: its first sentence is certain after 30 more
LONG = "The invention of movable metal letters in the middle of the fifteenth century. " * 30


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(VOICE, device="cpu")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(max_requests=2, max_characters=3000, max_body_bytes=20_000, client_seconds=20.0) as server:
        yield server


class Client(AsyncTcpClient):
    async def send(self, *events: Eventable) -> None:
        for event in events:
            await self.write_event(event.event())

    async def next(self) -> Event | None:
        return await asyncio.wait_for(self.read_event(), 30)

    async def until(self, kind: type[Eventable]) -> list[Event]:
        """All events up to one of `kind`, which must come."""
        events: list[Event] = []
        while not events or not kind.is_type(events[-1].type):
            event = await self.next()
            assert event is not None, f"the connection ended after {[event.type for event in events]}"
            assert kind is Error or not Error.is_type(event.type), event.data
            events.append(event)
        return events

    async def speech(self, kind: type[Eventable] = AudioStop) -> np.ndarray:
        """The samples of audio that is whole, up to an event of `kind`."""
        events = await self.until(kind)
        assert AudioStart.is_type(events[0].type)
        assert [event.type for event in events].count("audio-start") == 1
        return samples(events)

    async def error(self) -> Error:
        """The error that comes next, behind which the connection ends."""
        event = (await self.until(Error))[-1]
        assert await self.next() is None
        return Error.from_event(event)


def samples(events: list[Event]) -> np.ndarray:
    chunks = [AudioChunk.from_event(event) for event in events if AudioChunk.is_type(event.type)]
    assert {(chunk.rate, chunk.width, chunk.channels) for chunk in chunks} == {(22050, 2, 1)}
    assert max(chunk.samples for chunk in chunks) <= SAMPLES
    return np.frombuffer(b"".join(chunk.audio for chunk in chunks), "<i2")


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[Client]:
    async with Client("127.0.0.1", server.wyoming_port) as client:
        yield client


def with_client(server: Running, talk: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with connected(server) as client:
            await talk(client)

    asyncio.run(run())


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal within 2e-4 of full scale: what other chunks of the vocoder change."""
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 7


def expected(voice: Synthesizer, text: str) -> np.ndarray:
    return in_16_bits(torch.cat(list(voice.stream(text))))


# ---- what clients ask ----


def test_describe_and_ping(server: Running) -> None:
    async def talk(client: Client) -> None:
        await client.send(Describe(), Ping("x"))
        info = Info.from_event((await client.until(Info))[0])
        (program,) = info.tts
        (found,) = program.voices
        assert program.installed
        assert program.supports_synthesize_streaming
        assert (found.name, found.languages, found.installed) == ("voice", ["en"], True)
        assert found.description == "The bundled voice"
        assert Pong.from_event((await client.until(Pong))[0]).text == "x"

    with_client(server, talk)


def test_requests_one_after_the_other(server: Running, voice: Synthesizer) -> None:
    """Sent at once, with a voice and without."""

    async def talk(client: Client) -> None:
        asked = [Synthesize(TEXT, SynthesizeVoice("voice")), Synthesize("Yes."), Synthesize("No.", SynthesizeVoice())]
        await client.send(*asked, Synthesize("Yes.", SynthesizeVoice(language="en_GB")))
        for text in (TEXT, "Yes.", "No.", "Yes."):
            assert_close(await client.speech(), expected(voice, text))

    with_client(server, talk)


def test_ssml(server: Running, voice: Synthesizer) -> None:
    async def talk(client: Client) -> None:
        ssml = '<speak><break time="1s"/>Yes.</speak>'
        await client.send(Synthesize(ssml, text_format=SynthesizeTextFormat.SSML))
        found, plain = await client.speech(), expected(voice, "Yes.")
        assert_close(found[-len(plain) :], plain)
        assert len(found) - len(plain) == pytest.approx(22050, abs=256)
        await client.send(Synthesize("<speak>", text_format=SynthesizeTextFormat.SSML))
        assert "line 1" in (await client.error()).text

    with_client(server, talk)


def test_text_in_parts_as_home_assistant_sends_it(server: Running, voice: Synthesizer) -> None:
    """The audio begins before the last part is sent, and is that of the whole text. The repeated text is ignored."""
    first, rest = TEXT[:ENOUGH], TEXT[ENOUGH:]

    async def talk(client: Client) -> None:
        await client.send(SynthesizeStart(SynthesizeVoice("voice")), SynthesizeChunk(first))
        events = await client.until(AudioChunk)
        await client.send(*map(SynthesizeChunk, rest), Describe(), Synthesize(TEXT), SynthesizeStop())
        events += await client.until(SynthesizeStopped)
        kinds = [event.type for event in events if event.type not in ("audio-chunk", "info")]
        assert kinds == ["audio-start", "audio-stop", "synthesize-stopped"]
        assert [event.type for event in events].count("info") == 1
        assert_close(samples(events), expected(voice, TEXT))
        await client.send(SynthesizeStart(), SynthesizeChunk("Yes."), SynthesizeStop(), Synthesize("No."))
        assert_close(await client.speech(SynthesizeStopped), expected(voice, "Yes."))
        assert_close(await client.speech(), expected(voice, "No."))

    with_client(server, talk)


def test_times_of_chunks(server: Running) -> None:
    async def talk(client: Client) -> None:
        await client.send(Synthesize("Yes."))
        at = 0.0
        for event in (await client.until(AudioStop))[1:-1]:
            chunk = AudioChunk.from_event(event)
            assert chunk.timestamp == pytest.approx(1000 * at, abs=1)
            at += chunk.seconds

    with_client(server, talk)


# ---- mistakes ----

MISTAKES: list[tuple[list[Eventable], str, str]] = [
    ([Synthesize("Hi.", SynthesizeVoice("alloy"))], "voice_not_found", "the voices are: voice"),
    ([SynthesizeStart(SynthesizeVoice("../voice"))], "voice_not_found", "the voices are: voice"),
    ([Synthesize("Hi.", SynthesizeVoice(language="de"))], "voice_not_found", "the languages are: en"),
    ([Synthesize("Hi.", SynthesizeVoice("voice", speaker="7"))], "invalid_value", "the voices are: voice"),
    ([Synthesize("Hi.", text_format="x")], "invalid_value", "text or ssml"),
    ([SynthesizeStart(text_format="ssml")], "invalid_value", "one synthesize"),
    ([Synthesize("")], "invalid_input", "no word that can be spoken"),
    ([Synthesize("?!... \u2603")], "invalid_input", "no word that can be spoken"),
    ([SynthesizeStart(), SynthesizeStop()], "invalid_input", "no word that can be spoken"),
    ([Synthesize("a" * 3001)], "string_above_max_length", "3,001 characters; the limit is 3,000"),
    ([SynthesizeStart(), *[SynthesizeChunk("a" * 1000)] * 4], "string_above_max_length", "4,000 characters"),
    ([SynthesizeChunk("Hi.")], "invalid_event", "needs a synthesize-start"),
    ([SynthesizeStop()], "invalid_event", "needs a synthesize-start"),
    ([SynthesizeStart(), SynthesizeStart()], "invalid_event", "send synthesize-stop first"),
    ([Synthesize(3)], "invalid_value", "text is text, not 3"),  # type: ignore[arg-type]
    ([Synthesize(None)], "invalid_value", "text is text, not null"),  # type: ignore[arg-type]
    ([Synthesize("a" * 30_000)], "invalid_event", "20,000 bytes"),
]


@pytest.mark.parametrize(("events", "code", "text"), MISTAKES)
def test_mistakes_are_told_and_end_the_connection(
    events: list[Eventable], code: str, text: str, server: Running
) -> None:
    async def talk(client: Client) -> None:
        await client.send(*events)
        error = await client.error()
        assert error.code == code
        assert text in error.text

    with_client(server, talk)
    server.until_idle()


def test_an_unknown_event_is_ignored(server: Running) -> None:
    async def talk(client: Client) -> None:
        await client.write_event(Event("transcribe", {"language": "en"}, b"123"))
        await client.send(Ping())
        assert await client.until(Pong)

    with_client(server, talk)


LINES = [
    b"\n", b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"{}\n", b'{"type": 3}\n', b"[" * 15_000 + b"\n", b"\xff\xfe\n",
    b"null\n", b"9" * 15_000 + b"\n", b"a" * 50_000, b'{"type": "describe", "data_length": 3}\n[1]',
    b'{"type": "describe", "data_length": -3}\n', b'{"type": "describe", "data_length": 1e9}\n',
    b'{"type": "describe", "data_length": 99999999999}\n', b'{"type": "describe", "payload_length": "1"}\n',
    b'{"type": "describe", "data": [1]}\n', b'{"type": "ping", "data": {"text": "\\ud800"}}\n',
]  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_garbage_ends_the_connection(line: bytes, server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=10) as client:
        client.sendall(line)
        answer = client.makefile("rb").read()
    head, _, data = answer.partition(b"\n")
    assert json.loads(head)["type"] == "error"
    assert json.loads(data)["code"] == "invalid_event"
    test_an_unknown_event_is_ignored(server)


def test_random_garbage(server: Running) -> None:
    rng = random.Random(0)
    whole = b'{"type": "synthesize", "data": {"text": "...", "voice": {"name": "voice"}}}\n'
    for _ in range(100):
        line = bytearray(rng.randbytes(rng.randrange(100)) if rng.random() < 0.2 else whole)
        for _ in range(rng.randrange(5)):
            line[rng.randrange(len(line))] = rng.randrange(256) if line else 0
        with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=10) as client:
            client.sendall(line[: rng.randrange(len(line) + 1)] + b"\n")
            client.shutdown(socket.SHUT_WR)
            client.makefile("rb").read()
    server.until_idle()
    test_an_unknown_event_is_ignored(server)


# ---- limits ----


def test_events_that_wait_take_little_memory() -> None:
    """Lists in lists, in the fields that are read and in others."""
    nested = "[" + ",".join(["[]"] * 10_000) + "]"
    data = f'{{"a": {nested}, "voice": {{"name": "x", "b": {nested}}}, "text": {nested}}}'.encode()

    async def read() -> Event | None:
        reader = asyncio.StreamReader()
        reader.feed_data(json.dumps({"type": "synthesize", "data_length": len(data)}).encode() + b"\n" + data)
        return await read_event(reader, 10_000_000)

    event = asyncio.run(read())
    assert event == Event("synthesize", {"voice": {"name": "x"}, "text": []})


def test_a_client_that_leaves_frees_its_place(server: Running) -> None:
    """In the middle of the audio, before it, and in the middle of a text."""
    start: list[list[Eventable]] = [[Synthesize(LONG)], [SynthesizeStart(), SynthesizeChunk(TEXT[:ENOUGH])]]

    async def leave(events: list[Eventable], kind: type[Eventable] | None) -> None:
        async with connected(server) as client:
            await client.send(*events)
            if kind:
                await client.until(kind)

    for events in start:
        asyncio.run(leave(events, AudioChunk))
        server.until_idle()
        asyncio.run(leave(events, None))
        server.until_idle()
    assert 'tts_requests_total{status="499"}' in server.studio.metrics.text().decode()


def test_the_queue_is_full(server: Running, voice: Synthesizer) -> None:
    """A text that is still being sent holds a place, too. Who is refused may try again."""

    async def talk(client: Client) -> None:
        await client.send(SynthesizeStart())
        async with connected(server) as second, connected(server) as third:
            await second.send(SynthesizeStart())
            async with asyncio.timeout(30):
                while server.studio.admission.count < 2:
                    await asyncio.sleep(0.01)
            await third.send(Synthesize("No."))
            error = await third.error()
            assert error.code == "queue_full"
            assert "2 requests" in error.text
        await client.send(SynthesizeChunk("Yes."), SynthesizeStop())
        assert_close(await client.speech(SynthesizeStopped), expected(voice, "Yes."))

    with_client(server, talk)
    server.until_idle()


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_dropped() -> None:
    """Its place is free after client_seconds, although it stays connected. The system's buffers take the start."""
    text = LONG * 4
    with running(client_seconds=0.3, max_characters=20_000) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.wyoming_port))
        event = {"type": "synthesize", "data": {"text": text}}
        client.sendall(json.dumps(event).encode() + b"\n")
        wait_until(lambda: server.studio.admission.count)
        server.until_idle()
        assert 'tts_requests_total{status="499"} 1.0' in server.studio.metrics.text().decode()


def test_a_client_that_sends_nothing_is_dropped() -> None:
    with running(client_seconds=0.2) as server:
        for part in (b"", b'{"type": '):
            with socket.create_connection(("127.0.0.1", server.wyoming_port), timeout=10) as client:
                client.sendall(part)
                assert client.recv(1) == b""


def test_too_many_connections() -> None:
    with running(max_requests=1) as server:

        async def talk() -> list[bool]:
            clients = [Client("127.0.0.1", server.wyoming_port) for _ in range(3)]
            answered = []
            for client in clients:
                await client.connect()
                try:
                    await client.send(Ping())
                    answered.append(await client.next() is not None)
                except ConnectionError:
                    answered.append(False)
            for client in clients[:2]:
                await client.disconnect()
            return answered

        assert asyncio.run(talk()) == [True, True, False]


def test_the_end_of_the_server(voice: Synthesizer) -> None:
    """What is running ends whole; nothing new begins; idle connections do not hold it up."""

    async def talk() -> None:
        with running() as server:
            client, idle = (Client("127.0.0.1", server.wyoming_port) for _ in range(2))
            await client.connect()
            await idle.connect()
            await idle.send(Ping())
            await idle.until(Pong)
            await client.send(SynthesizeStart(), SynthesizeChunk(TEXT[:ENOUGH]))
            events = await client.until(AudioChunk)
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await idle.next() is None
            await client.send(SynthesizeChunk(TEXT[ENOUGH:]), SynthesizeStop(), Synthesize("Yes."))
            events += await client.until(SynthesizeStopped)
            assert_close(samples(events), expected(voice, TEXT))
            assert await client.next() is None
            await stopping
            with pytest.raises(ConnectionRefusedError):
                await Client("127.0.0.1", server.wyoming_port).connect()

    asyncio.run(talk())
