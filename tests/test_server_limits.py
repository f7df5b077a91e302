"""What the server does not do: wait for ever, work for nobody, answer anybody, grow, or fall over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.errors import UserError
from synthesis.server.guard import Keys
from synthesis.server.options import ServerOptions
from synthesis.server.shelf import Shelf
from synthesis.server.speech import Sse
from synthesis.synthesizer import Synthesizer
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import fails_with, run_here, run_process
from tests.helpers.server import VOICE, Running, garbage, request, running
from tests.helpers.servers import free_port

LONG = "Once more, with feeling. " * 150  # about 4 minutes of audio
KEY, OTHER = "0123456789abcdef", "fedcba9876543210"


def raw(server: Running, data: bytes) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that what is not read soon stops the server
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(data)
    return connection


def head(length: int, more: str = "") -> bytes:
    return (
        f"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{more}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def posted(text: str, **fields: Any) -> bytes:
    body = json.dumps(request(text, **fields)).encode()
    return head(len(body)) + body


def everything(connection: socket.socket) -> bytes:
    """What the server sends until it closes or resets the connection."""
    return until_end(connection)[0]


def until_end(connection: socket.socket) -> tuple[bytes, bool]:
    """What the server sends, and whether it then resets the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        return found, True
    return found, False


@contextmanager
def busy(server: Running, count: int = 1, key: str | None = None) -> Iterator[list[socket.socket]]:
    """Clients with a long answer that they do not read."""
    more = f"Authorization: Bearer {key}\r\n" if key else ""
    body = json.dumps(request(LONG)).encode()
    connections = [raw(server, head(len(body), more) + body) for _ in range(count)]
    wait_until(lambda: server.studio.admission.count >= count)
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()
        server.until_idle()


# ---- clients that leave or dawdle ----


@pytest.mark.parametrize("after_bytes", [0, 1, 200_000])
def test_work_stops_when_its_client_leaves(after_bytes: int, speech_server: Running) -> None:
    """Before the first audio, at it, and in the middle."""
    connection = raw(speech_server, posted(LONG))
    received = 0
    while received < after_bytes:
        received += len(part := connection.recv(65536))
        assert part
    connection.close()
    assert speech_server.until_idle() < 30
    assert not speech_server.studio.scheduler.num_rows


@pytest.mark.slow
def test_a_client_that_reads_nothing_holds_back_only_itself() -> None:
    with running(client_seconds=0.5) as server:
        connection = raw(server, posted(LONG))
        assert server.speak("Yes.").status_code == 200
        server.until_idle()  # after client_seconds the server gives it up
        assert not everything(connection).endswith(b"0\r\n\r\n")  # no end: it cannot be taken for the whole


def test_a_client_that_reads_nothing_does_not_keep_the_server_from_ending() -> None:
    with running(client_seconds=0.5) as server:
        connection = raw(server, b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 300)  # 9 MB of answers
        time.sleep(0.2)
        server.stop()
        connection.close()


def test_half_closed_and_half_sent_requests() -> None:
    with running(client_seconds=0.3) as server:
        for data in (b"", b"POST /v1/audio", b"GET / HTTP/1.1\r\nX: ", b"\x00\xff" * 50, b"GET / HTTP/9.9\r\n\r\n"):
            connection = raw(server, data)
            assert everything(connection)[:10] in (b"", b"HTTP/1.1 4")  # closed within client_seconds
        slow = raw(server, head(100) + b'{"model"')
        assert everything(slow).startswith(b"HTTP/1.1 408")
        half = raw(server, posted("Yes."))
        half.shutdown(socket.SHUT_WR)
        everything(half)
        server.until_idle()
        assert server.speak("Yes.").status_code == 200


def test_bodies_that_are_too_large(speech_server: Running) -> None:
    connection = raw(speech_server, head(10_000_000))
    assert everything(connection).startswith(b"HTTP/1.1 413")

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    with speech_server.client() as client:
        # The server may have answered and closed the connection while the body was sent.
        with contextlib.suppress(httpx.WriteError):
            assert client.post("/v1/audio/speech", content=chunks()).status_code == 413
        assert client.get("/healthz").status_code == 200


# ---- limits ----


def test_a_full_queue() -> None:
    with running(max_requests=2, client_seconds=20.0) as server, server.client() as client:
        assert server.speak("Yes.").status_code == 200
        with busy(server, 2):
            full = server.speak("Yes.")
            assert full.status_code == 429
            assert full.json()["error"]["code"] == "queue_full"
            assert int(full.headers["retry-after"]) >= 1
            assert client.get("/readyz").status_code == 503
            assert client.get("/healthz").status_code == 200
        assert server.speak("Yes.").status_code == 200


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"# two keys\n{KEY}\n\n{OTHER}\n")
    with running(KEY, keys=str(file), max_requests_per_key=1, client_seconds=20.0) as server:
        for given in (None, b"Bearer wrong", b"Basic " + KEY.encode(), b"\xe9"):
            with httpx.Client(base_url=server.url) as stranger:
                encoded: Any = [(b"Authorization", given)] if given else []
                for path in ("/v1/audio/voices", "/metrics", "/openapi.json", "/x"):
                    response = stranger.get(path, headers=encoded)
                    assert response.status_code == 401
                    assert response.headers["www-authenticate"] == "Bearer"
                assert stranger.get("/readyz").status_code == 200
        assert server.speak("Yes.").status_code == 200
        with busy(server, 1, KEY):
            mine = server.speak("Yes.")
            assert (mine.status_code, mine.json()["error"]["code"]) == (429, "too_many_requests")
            with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {OTHER}"}, timeout=60) as other:
                assert other.post("/v1/audio/speech", json=request("Yes.")).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no key"), (b"# x\n", "no key"), (b"  # a comment of some length\n", "no key"),
        (b"short", "key 1 has fewer than"), (b"\xff" * 20, "not UTF-8"),
    ],
)  # fmt: skip
def test_key_files_that_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        Keys.load(str(file))
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=f"keys={path}: .*one key on each line"):
            Keys.load(str(path))


def test_voices_that_are_damaged_or_lost(tmp_path: Path) -> None:
    """The first one stops the start, with a message; a link to nothing does not."""
    for name in ("tacotron2.safetensors", "waveglow.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    (tmp_path / "lost.safetensors").symlink_to(tmp_path / "none")
    result = run_here("scripts/serve.py", f"voices={tmp_path}", f"port={free_port()}", expect=1)
    fails_with(result, "tacotron2.safetensors")


@pytest.mark.parametrize("alias", [None, True, 1.5])
def test_aliases_that_are_no_names(alias: object) -> None:
    with pytest.raises(UserError, match=f"aliases: {alias} is no name"):
        Shelf(VOICE, {alias: "voice"}, Synthesizer.load)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cors": ["*"]}, "name each origin"), ({"cors": ["https://a.b/c"]}, "without a path"),
        ({"wyoming_port": 8000}, "port of HTTP too"), ({"workers": 2, "wyoming_port": 10200}, "workers=1"),
        ({"port": 0}, "at least 1"), ({"queue_seconds": 0.0}, "more than 0"),
    ],
)  # fmt: skip
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServerOptions(voices="demo/voice", **options)


def test_time_limits() -> None:
    with running(queue_seconds=0.001) as server:
        late = server.speak(LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "queue_timeout")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_answer_that_fails_in_the_middle_does_not_look_whole(version: bytes) -> None:
    """HTTP/1.0 has no other end than that of the connection. The failure is counted as what it is."""
    with running(request_seconds=1.0, client_seconds=20.0) as server:
        connection = raw(server, posted(LONG).replace(b"HTTP/1.1", b"HTTP/" + version))
        found, is_reset = until_end(connection)
        assert is_reset
        assert found.startswith(b"HTTP/1.1 200")
        assert len(found) > 10_000
        assert not found.endswith(b"0\r\n\r\n")
        assert statuses(server, 1) == {"503": 1}


def test_a_fault_of_the_server_is_told_in_events_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the start of an answer and after it."""
    with running() as server:
        monkeypatch.setattr(Sse, "piece", lambda *_: {}["x"])
        found = server.speak("Yes.", stream_format="sse")
        *_, last = [json.loads(event.removeprefix("data: ")) for event in found.text.strip().split("\n\n")]
        assert (found.status_code, last["type"], last["error"]["code"]) == (200, "error", "internal_error")
        monkeypatch.setattr(Sse, "__init__", lambda *_: {}["x"])
        found = server.speak("Yes.", stream_format="sse")
        assert (found.status_code, found.json()["error"]["code"]) == (500, "internal_error")
        assert statuses(server, 2) == {"500": 2}


def statuses(server: Running, total: int) -> dict[str, int]:
    """How many requests had which status, when `total` have been counted: that is after their answers."""

    def found() -> dict[str, int] | None:
        lines = re.findall(r'^tts_requests_total\{status="(\d+)"\} (\d+)', server.studio.metrics.text().decode(), re.M)
        counts = {status: int(count) for status, count in lines}
        return counts if sum(counts.values()) >= total else None

    return wait_until(found) or {}


# ---- pages of other sites ----


def test_other_sites_are_refused_unless_configured(speech_server: Running) -> None:
    origin = "https://example.org"
    with speech_server.client() as client:
        ours = client.get("/", headers={"Origin": origin})
        assert "access-control-allow-origin" not in ours.headers
        policy = ours.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert ours.headers["x-content-type-options"] == "nosniff"
        rebound = client.get("/v1/audio/voices", headers={"Host": "evil.example"})
        assert (rebound.status_code, rebound.json()["error"]["code"]) == (403, "wrong_host")
    with running(host="127.0.0.2", cors=[origin]) as server, server.client() as client:
        assert client.get("/healthz", headers={"Host": "127.0.0.2:8000"}).status_code == 200
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        allowed = client.options("/v1/audio/speech", headers=asked)
        assert allowed.headers["access-control-allow-origin"] == origin
        other = client.options("/v1/audio/speech", headers={**asked, "Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


# ---- garbage ----


def test_garbage(speech_server: Running) -> None:
    """1,000 requests with wrong fields and broken JSON; `make test-all` sends 10,000."""
    send_garbage(speech_server, 1000)


@pytest.mark.slow
def test_more_garbage(speech_server: Running) -> None:
    send_garbage(speech_server, 10_000)


def send_garbage(server: Running, count: int) -> None:
    rng = random.Random(0)
    with server.client() as client:
        for _ in range(count):
            response = client.post(
                "/v1/audio/speech", content=garbage(rng), headers={"Content-Type": "application/json"}
            )
            assert 400 <= response.status_code < 500, response.text
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert server.speak("Yes.").status_code == 200
    server.until_idle()


# ---- the process ----


@contextmanager
def process(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """scripts/serve.py, ready to answer, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(REPOSITORY / "scripts/serve.py"), f"port={port}", *options]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert server.poll() is None, server.stderr and server.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield server, url
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_sigterm_lets_requests_end_and_refuses_others() -> None:
    with process("log_text=false") as (server, url):
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=request(LONG[:600]), timeout=60) as answer:
            parts = answer.iter_raw()
            next(parts)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{url}/healthz")
            size = sum(map(len, parts))
        assert size > 500_000  # the whole answer
        server.wait(20)
        assert server.stderr is not None
        log = server.stderr.read()
    assert "status=200 characters=600" in log
    assert "feeling" not in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_second_sigterm_ends_it() -> None:
    with process("client_seconds=60") as (server, url):
        connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
        connection.sendall(posted(LONG))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
        server.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        server.wait(10)
        connection.close()


@pytest.mark.slow
def test_several_processes_on_one_port() -> None:
    """Ctrl-C in a terminal goes to the whole group of processes: it lets requests end, and ends all."""
    with process("workers=2") as (server, url):
        answers: list[int] = []

        def ask() -> None:
            answers.append(httpx.post(f"{url}/v1/audio/speech", json=request("Yes."), timeout=60).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=request(LONG[:600]), timeout=60) as answer:
            parts = answer.iter_raw()
            next(parts)
            os.killpg(server.pid, signal.SIGINT)
            size = sum(map(len, parts))  # an answer that is cut off raises an error
        assert size > 500_000
        server.wait(20)


@pytest.mark.slow
def test_several_processes_refuse_what_is_new_while_they_end() -> None:
    """Slow: each process loads the models. The last status tells a supervisor such as systemd that all is well."""
    with process("workers=2") as (server, url):
        with httpx.stream("POST", f"{url}/v1/audio/speech", json=request(LONG[:600]), timeout=60) as answer:
            parts = answer.iter_raw()
            next(parts)
            server.send_signal(signal.SIGTERM)
            time.sleep(2)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/healthz", timeout=5)
            assert sum(map(len, parts)) > 500_000
        assert server.wait(20) == 0


@pytest.mark.slow
def test_processes_that_end_at_once_end_all_with_a_status(tmp_path: Path) -> None:
    """Slow: it starts three processes. systemd starts the server again only if the status is not 0."""
    for name in ("tacotron2.safetensors", "waveglow.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
    result = run_process("scripts/serve.py", f"voices={tmp_path}", f"port={free_port()}", "workers=2", expect=1)
    fails_with(result, "tacotron2.safetensors", "a process ended within 30 s")
