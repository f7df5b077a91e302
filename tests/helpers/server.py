"""A speech server in a thread of the test process."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from synthesis.server.app import create_app
from synthesis.server.options import ServerOptions
from synthesis.server.process import Server, listen, protocol
from synthesis.server.studio import Studio
from tests.helpers import REPOSITORY, wait_until

VOICE = REPOSITORY / "demo/voice"


@dataclass
class Running:
    """A server that answers at `url`."""

    url: str
    key: str | None
    studio: Studio
    wyoming_port: int
    stop: Callable[[], None]  # it may be called twice

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, **options)

    def speak(self, text: str, **fields: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/audio/speech", json=request(text, **fields))

    def until_idle(self) -> float:
        """Wait until no job is left; return the seconds it took."""
        start = time.monotonic()
        scheduler, admission = self.studio.scheduler, self.studio.admission
        wait_until(lambda: not (scheduler.num_jobs or scheduler.num_rows or admission.count), seconds=30)
        return time.monotonic() - start


def request(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tts-1", "voice": "voice", "input": text, "response_format": "wav", **fields}


@contextmanager
def running(key: str | None = None, **options: Any) -> Iterator[Running]:
    """Start a server with the bundled voice, and stop it at the end."""
    settings = ServerOptions(**{"voices": str(VOICE), "client_seconds": 5.0, **options})
    listener, wyoming_listener = listen("127.0.0.1", 0), listen("127.0.0.1", 0)
    app = create_app(settings, 2, wyoming_listener)
    http = protocol(settings.client_seconds)
    config = uvicorn.Config(app, http=http, log_config=None, timeout_keep_alive=1, proxy_headers=False)
    server = Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"

    wait_until(lambda: server.started or not thread.is_alive())
    assert thread.is_alive(), "the server did not start"
    try:
        url, wyoming_port = f"http://127.0.0.1:{listener.getsockname()[1]}", wyoming_listener.getsockname()[1]
        yield Running(url, key, app.state.studio, wyoming_port, stop)
    finally:
        stop()


def garbage(rng: random.Random) -> bytes:
    """A body that is no valid request: broken JSON, or a wrong field."""
    wrong: list[Any] = [
        None,
        True,
        -1,
        1e308,
        [],
        {},
        [[]],
        {"id": 3},
        "\x00",
        "\U0001f600" * 50,
        "../../etc/passwd",
        "a\r\nB: c",
    ]
    fields = request("...")  # without a word, so that it is wrong whatever follows
    for name in rng.sample([*sorted(fields), "speed", "stream_format", "include", "instructions", "x" * 50], 3):
        fields[name] = rng.choice(wrong) if name != "input" else rng.choice([None, 3, "", "\u2603", "?!" * 2000, [1]])
    body = json.dumps(fields).encode()
    if rng.random() < 0.5:
        return body
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(200))
    damaged = bytearray(body)
    for _ in range(rng.randrange(1, 8)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    del damaged[rng.randrange(len(damaged)) :]  # never a whole object
    return bytes(damaged)
