"""Load on a speech server: requests and audio per second, first audio, and memory, by the number of clients.

    PYTHONPATH=scripts python -m benchmarks.server_load TEXT --clients 1 8 64 --seconds 60
    PYTHONPATH=scripts python -m benchmarks.server_load TEXT --clients 8 --long 100000
    PYTHONPATH=scripts python -m benchmarks.server_load --requests 10000
    PYTHONPATH=scripts python -m benchmarks.server_load TEXT --piper http://127.0.0.1:5000

Each client sends one request after the other: sentences of TEXT, together at most --characters, to a server with the
bundled voice, which it starts. Every answer is compared with the first one for its text: another length, or a sample
that differs by more than 2e-4 of full scale, counts as mixed. With one client, the server has one request at a time:
that row is what the others are compared with. --piper measures a running `python -m piper.http_server` instead, whose
answers are drawn anew each time and therefore not compared.

--long N adds a client with one text of N characters. --requests N sends N mixed requests instead, of which some are
wrong and some clients leave early, and prints the memory as it goes.
"""

from __future__ import annotations

import checkout  # noqa: F401

import argparse
import asyncio
import contextlib
import itertools
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from common.entry import run_command

from benchmarks.streaming import read_text

ROOT = Path(__file__).resolve().parents[2]
HEADER, RATE = 44, slice(24, 28)  # bytes of a wav, and where it has its sample rate
CLOSE = 7  # 16-bit steps: 2e-4 of full scale
CLIENTS_OF_SOAK = 8
STOPS, PAUSE = (100, 500), 12.0  # requests and seconds: the server gives free memory back every 10 s
MOST = 200  # different texts
DEFAULT_TEXT = (
    "The quick brown fox jumps over the lazy dog. It costs $5.20 on 3 May 1998! Once more, with feeling. Yes."
)


@dataclass
class Found:
    """What the clients saw, of answers that are equal for equal texts if `repeats`."""

    repeats: bool = True
    first: list[float] = field(default_factory=list)  # seconds
    total: list[float] = field(default_factory=list)
    audio: float = 0.0  # seconds
    failed: int = 0
    mixed: int = 0
    answers: dict[str, np.ndarray] = field(default_factory=dict)

    def note(self, text: str, wav: bytes, first: float, total: float) -> None:
        samples = np.frombuffer(wav[HEADER:], "<i2")
        known = self.answers.setdefault(text, samples) if self.repeats else samples
        if known.shape != samples.shape or np.abs(known.astype(int) - samples).max(initial=0) > CLOSE:
            self.mixed += 1
        self.first.append(first)
        self.total.append(total)
        self.audio += len(samples) / int.from_bytes(wav[RATE], "little")


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tts-1", "voice": "voice", "input": text, "response_format": "wav", **fields}


async def ask(client: httpx.AsyncClient, text: str, found: Found, is_piper: bool = False) -> None:
    start, first, parts = time.monotonic(), 0.0, []
    path, content = ("/synthesize", {"text": text}) if is_piper else ("/v1/audio/speech", body(text))
    try:
        async with client.stream("POST", path, json=content) as response:
            async for part in response.aiter_raw():
                parts.append(part)
                first = first or time.monotonic() - start
            if response.status_code == 200:
                return found.note(text, b"".join(parts), first, time.monotonic() - start)
    except httpx.TransportError:
        pass
    found.failed += 1


async def clients_of(
    url: str, texts: list[str], count: int, seconds: float, long: str = "", is_piper: bool = False
) -> tuple[Found, float]:
    """Run `count` clients for `seconds`; return what they saw and the seconds it took."""
    found, start, order = Found(repeats=not is_piper), time.monotonic(), itertools.count()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def run() -> None:
            while time.monotonic() - start < seconds:
                await ask(client, texts[next(order) % len(texts)], found, is_piper)

        beside = asyncio.create_task(ask(client, long, Found())) if long else None
        await asyncio.gather(*(run() for _ in range(count)))
        taken = time.monotonic() - start
        if beside:
            print(f"the long request {'has ended' if beside.done() else 'was running to the end'}")
            beside.cancel()
    return found, taken


async def soak(url: str, texts: list[str], count: int, process: int) -> None:
    """Send `count` mixed requests, and print the memory of the idle server at times."""
    rng, sent = random.Random(0), 0
    statuses: dict[int, int] = {}
    formats = ("mp3", "opus", "aac", "flac", "wav", "pcm")

    async def one(client: httpx.AsyncClient, k: int) -> None:
        text = rng.choice(texts)[: rng.choice((8, 15, 30, 60))]
        fields: dict[str, Any] = {"response_format": formats[k % 6], "speed": rng.choice((0.8, 1.0, 1.0, 1.5))}
        if k % 5 == 0:
            fields |= {"stream_format": "sse", "include": ["words", "mel", "alignment"]}
        if k % 7 == 0:
            fields |= rng.choice(({"voice": "x"}, {"speed": 9}, {"input": "..."}, {"x": 1}))
        async with client.stream("POST", "/v1/audio/speech", json=body(text) | fields) as response:
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            async for _ in response.aiter_raw():
                if k % 11 == 0:
                    return  # leave early

    async def run(client: httpx.AsyncClient, until: int) -> None:
        nonlocal sent
        while sent < until:
            sent += 1
            with contextlib.suppress(httpx.TransportError):
                await one(client, sent)

    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for until in sorted({*STOPS, *range(1000, count, 1000), count}):
            await asyncio.gather(*(run(client, until) for _ in range(CLIENTS_OF_SOAK)))
            await asyncio.sleep(PAUSE)
            print(f"{until:6} requests  {memory(process):6.0f} MB  {statuses}", flush=True)


def requests_of(text: str, characters: int) -> Iterator[str]:
    """Sentences, put together as long as they have at most `characters`."""
    found = ""
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        if found and len(found) + len(sentence) >= characters:
            yield found
            found = ""
        found = f"{found} {sentence}".strip()
    if found:
        yield found


def memory(process: int) -> float:
    """Resident memory in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


@contextlib.contextmanager
def server(options: list[str]) -> Iterator[tuple[str, int]]:
    """A server of its own: its URL and the number of its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "scripts/serve.py", f"port={port}", "max_characters=200000", *options]
    with open("/dev/null", "w") as nothing:
        process = subprocess.Popen(command, cwd=ROOT, stderr=nothing)
    url, start = f"http://127.0.0.1:{port}", time.monotonic()
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            assert process.poll() is None, "the server did not start"
            time.sleep(0.02)
        print(f"ready after {time.monotonic() - start:.1f} s, {memory(process.pid):.0f} MB")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="?", help="text file; default: a few sentences")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--characters", type=int, default=1, help="of a request, if it has several sentences")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--long", type=int, default=0, help="characters of a text beside the others")
    parser.add_argument("--requests", type=int, default=0, help="number of mixed requests, for the memory")
    parser.add_argument("--piper", metavar="URL", help="of a running Piper server, to measure instead")
    parser.add_argument("--options", nargs="*", default=[], help="options of scripts/serve.py")
    return parser


def measure(options: argparse.Namespace, url: str, process: int, texts: list[str], long: str) -> None:
    print("clients  requests/s  audio s/s  first p50    p90    p99  total p99  failed  mixed  memory MB")
    for count in options.clients:
        found, taken = asyncio.run(clients_of(url, texts, count, options.seconds, long, bool(options.piper)))
        first = "  ".join(f"{percentile(found.first, p):5.2f}" for p in (50, 90, 99))
        print(
            f"{count:7}  {len(found.total) / taken:10.2f}  {found.audio / taken:9.1f}      {first}  "
            f"{percentile(found.total, 99):9.2f}  {found.failed:6}  {found.mixed:5}  "
            f"{memory(process) if process else float('nan'):9.0f}",
            flush=True,
        )


def main() -> None:
    options = parser().parse_args()
    text = read_text(options.text) if options.text else DEFAULT_TEXT
    texts = list(requests_of(text, options.characters))[:MOST]
    long = (text * (1 + options.long // len(text)))[: options.long]
    if options.piper:
        return measure(options, options.piper, 0, texts, "")
    with server(options.options) as (url, process):
        if options.requests:
            return asyncio.run(soak(url, texts, options.requests, process))
        measure(options, url, process, texts, long)


if __name__ == "__main__":
    run_command(main)
