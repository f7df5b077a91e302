"""A process of the server: uvicorn with this project's limits and signals."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing.connection
import os
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.device import resolve_device
from common.errors import UserError
from common.ops.precision import set_tf32
from common.parallel import end_with_parent
from common.threads import allowed_cores
from synthesis.server.app import create_app
from synthesis.server.options import ServerOptions

SMALL = 64 * 2**20  # bytes of a voice's files; the layers of smaller models gain little from a second thread
GPU_LANES = 2  # one prepares work for the GPU while the other waits for it
BACKLOG = 1024  # connections that wait to be accepted
SHORT_LIFE = 30  # seconds
TRIM_SECONDS = 10
NO_LINGER = struct.pack("ii", 1, 0)  # what waits to be sent is dropped, and the client is told by a reset
log = logging.getLogger("tts")


def lanes_and_threads(options: ServerOptions) -> tuple[int, int]:
    """The lanes of the scheduler, and the threads of each."""
    cores = max(1, allowed_cores() // options.workers)
    files = [path.stat().st_size for path in Path(options.voices).rglob("*.safetensors") if path.is_file()]
    threads = options.threads or (1 if max(files, default=0) < SMALL else cores)
    if resolve_device(options.device).type != "cpu":
        return GPU_LANES, threads
    return max(1, cores // threads), threads


@dataclass
class AppFactory:
    """Makes the application in the process that runs it."""

    options: ServerOptions
    wyoming_listener: socket.socket | None = None

    def __call__(self) -> FastAPI:
        lanes, threads = lanes_and_threads(self.options)
        torch.set_num_threads(threads)
        set_tf32(self.options.tf32)
        return create_app(self.options, lanes, self.wyoming_listener)


class Server(uvicorn.Server):
    """Finishes what is running at the first SIGTERM or SIGINT, and ends at the second."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._captured_signals.append(sig)
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse new requests at once. uvicorn's own does not look for the second signal while Wyoming's end."""
        app = self.config.loaded_app
        app.state.studio.admission.is_closing = True
        ending = asyncio.create_task(super().shutdown(sockets))
        while not ending.done() and not self.force_exit:
            await asyncio.wait((ending,), timeout=0.1)
        if ending.done():
            await ending


def protocol(client_seconds: float) -> type[H11Protocol]:
    """HTTP/1.1 whose clients must send the head of a request, and take what is sent, within `client_seconds`; uvicorn
    waits for ever, also after it has closed a connection. Requests find `abort` in scope["state"]."""

    class Protocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _flush: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # writing is paused as long as anything waits for the client
            self.app_state = {**self.app_state, "abort": self.abort}
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._expect_head()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._flush = self.loop.call_later(client_seconds, self.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._flush:
                self._flush.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in filter(None, (self._head, self._flush)):
                timer.cancel()
            super().connection_lost(exc)

        def abort(self) -> None:
            """Reset the connection: after an ordinary end, a client of HTTP/1.0 would take a part for the whole."""
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            self.transport.abort()

        def _expect_head(self) -> None:
            """Start the timer if a head has begun or must come, stop it if it is complete."""
            if self.cycle is not None and not self.cycle.response_complete:
                if self._head:
                    self._head.cancel()
                self._head = None
            elif self._head is None:
                self._head = self.loop.call_later(client_seconds, self._close_if_idle)

        def _close_if_idle(self) -> None:
            self._head = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol


def give_back_memory() -> None:
    """Return free memory to the system every TRIM_SECONDS, for ever: glibc keeps what several threads have freed, and
    over thousands of requests that becomes tens of MB."""
    try:
        trim = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # another C library
        return
    while True:
        time.sleep(TRIM_SECONDS)
        trim(0)


def run(options: ServerOptions, listener: socket.socket, wyoming_listener: socket.socket | None = None) -> None:
    """Run one process until a signal."""
    threading.Thread(target=give_back_memory, daemon=True, name="memory").start()
    config = uvicorn.Config(
        AppFactory(options, wyoming_listener),
        factory=True,
        http=protocol(options.client_seconds),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, int(options.client_seconds)),
    )
    Server(config).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises OSError if the address cannot be used."""
    family, kind, protocol_number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    # With its protocol: asyncio then sends small parts at once (TCP_NODELAY). Else each answer took 40 ms more.
    listener = socket.socket(family, kind, protocol_number or socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(BACKLOG)
    return listener


def serve(options: ServerOptions) -> None:
    """Serve until a signal. Raises OSError if the address cannot be used."""
    listener = listen(options.host, options.port)
    host = f"[{options.host}]" if ":" in options.host else options.host
    log.info("listening at http://%s:%d", host, options.port)
    wyoming_listener = None
    if options.wyoming_port is not None:
        wyoming_listener = listen(options.host, options.wyoming_port)
        log.info("listening for Wyoming at tcp://%s:%d", host, options.wyoming_port)
    if options.workers == 1:
        run(options, listener, wyoming_listener)
    else:
        Supervisor(options, listener).run()


class Supervisor:
    """Runs several processes on one socket, passes signals on, and starts a process again that was killed."""

    def __init__(self, options: ServerOptions, listener: socket.socket) -> None:
        self.options, self.listener = options, listener
        self.context = multiprocessing.get_context("spawn")
        self.started: dict[int, float] = {}  # by the numbers of processes
        self.is_stopping = self.has_failed = False
        self.workers = [self._start() for _ in range(options.workers)]

    def run(self) -> None:
        """Until a signal. Raises UserError if a process ends soon after its start."""
        awake, waker = socket.socketpair()  # a handler that did more could come between any two steps

        def note(*_: object) -> None:
            waker.send(b"1")

        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, note)
        while self.workers:
            if awake in multiprocessing.connection.wait([awake, *(worker.sentinel for worker in self.workers)]):
                awake.recv(1)
                self._stop()
            for worker in [worker for worker in self.workers if worker.exitcode is not None]:
                self._ended(worker)
        if self.has_failed:
            raise UserError(f"workers={self.options.workers}: a process ended within {SHORT_LIFE} s; see its message")

    def _start(self) -> SpawnProcess:
        worker = self.context.Process(target=_work, args=(self.options, self.listener))
        worker.start()
        self.started[worker.pid or 0] = time.monotonic()
        return worker

    def _ended(self, worker: SpawnProcess) -> None:
        self.workers.remove(worker)
        lived = time.monotonic() - self.started.pop(worker.pid or 0)
        if self.is_stopping:
            return
        log.error("process %s ended with status %s after %.0f s", worker.pid, worker.exitcode, lived)
        if lived < SHORT_LIFE:  # it would only fail again
            self.has_failed = True
            self._stop()
        else:
            self.workers.append(self._start())

    def _stop(self) -> None:
        self.is_stopping = True
        self.listener.close()  # else the system accepts connections that nobody answers
        for worker in self.workers:
            if worker.is_alive():
                os.kill(worker.pid or 0, signal.SIGTERM)


def _work(options: ServerOptions, listener: socket.socket) -> None:
    os.setpgrp()  # Ctrl-C in a terminal reaches only the first process, which passes it on: twice would end it at once
    threading.Thread(target=end_with_parent, daemon=True).start()
    start_log()
    try:
        run(options, listener)
    except UserError as error:
        log.error("%s", error)
        sys.exit(1)


def start_log() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
