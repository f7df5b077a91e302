"""A server of the web page whose answers a test sets: for what a real server does only when it fails, or by chance."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.helpers import REPOSITORY

PAGE = REPOSITORY / "synthesis" / "server" / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


@dataclass
class ScriptedSpeech:
    """What is sent, and what was asked for. It sends no Content-Security-Policy, so that markup in a text could act."""

    url: str = ""
    key: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    refusal: tuple[int, dict[str, str], bytes] | None = None  # status, headers, body
    endless: bool = False  # after the events the answer goes on, with nothing to hear
    requests: list[dict[str, Any]] = field(default_factory=list)
    aborted: int = 0  # endless answers that the browser gave up


def delta(pcm: bytes) -> dict[str, Any]:
    return {"type": "speech.audio.delta", "audio": base64.b64encode(pcm).decode()}


def words(*spans: tuple[float, int, int]) -> dict[str, Any]:
    """Return the event of words that begin at these seconds and stand in these characters of the text."""
    found = [{"word": "", "start": start, "end": start + 0.1, "span": [a, b]} for start, a, b in spans]
    return {"type": "speech.audio.words", "words": found}


def tone(seconds: float) -> bytes:
    """Return 24 kHz 16-bit PCM of a quiet 220 Hz tone."""
    time = np.arange(round(24000 * seconds)) / 24000
    return (3000 * np.sin(2 * np.pi * 220 * time)).astype("<i2").tobytes()


@contextmanager
def scripted_speech() -> Iterator[ScriptedSpeech]:
    script = ScriptedSpeech()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/v1/audio/voices":
                body = json.dumps({"voices": [{"id": "anna", "name": "Anna"}, {"id": "ben", "name": "Ben"}]}).encode()
                self.answer(200, {"Content-Type": "application/json"}, body)
            else:
                name, kind = FILES[self.path]
                self.answer(200, {"Content-Type": f"{kind}; charset=utf-8"}, (PAGE / name).read_bytes())

        def do_POST(self) -> None:
            script.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if script.refusal:
                self.answer(*script.refusal)
            else:
                body = "".join(f"data: {json.dumps(event)}\n\n" for event in script.events)
                self.answer(200, {"Content-Type": "text/event-stream"}, body.encode())
                if script.endless:
                    self.go_on()

        def go_on(self) -> None:
            try:
                while True:
                    self.wfile.write(b": comment\n\n")
                    time.sleep(0.02)
            except (BrokenPipeError, ConnectionResetError):
                script.aborted += 1

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass  # a test has no use for a line on standard error for each request

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
