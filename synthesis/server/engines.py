"""Further models of a server: the engines beside Tacotron 2 + WaveGlow, one request's text after the other."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from synthesis.engines.loading import engine_options
from synthesis.engines.options import EngineOptions
from synthesis.engines.protocol import VoicedEngine
from synthesis.options import SpeechOptions
from synthesis.reading import Fault
from synthesis.scheduler.job import BUFFER_SECONDS, Chunk
from synthesis.scheduler.script import NothingToSayError
from synthesis.server.speech import as_api_error
from synthesis.utterance import pause_frames

LoadEngine = Callable[[EngineOptions], VoicedEngine]


class Turns:
    """A lock that is given in the order in which it is asked for."""

    def __init__(self) -> None:
        self._changed, self._waiting = threading.Condition(), deque[object]()

    @contextmanager
    def turn(self) -> Iterator[None]:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(lambda: self._waiting[0] is ticket)
        try:
            yield
        finally:
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()


class EngineModel:
    """An engine that is loaded when it is first asked for. `load` makes it from its options."""

    def __init__(self, options: EngineOptions, load: LoadEngine) -> None:
        self.options, self._load = options, load
        self.turns = Turns()
        self._loading: asyncio.Task[VoicedEngine] | None = None

    async def get(self) -> VoicedEngine:
        """The engine, which takes seconds to minutes for the first time. Raises UserError if it cannot be loaded.

        Only one thread loads it: those of the event loop's pool are few, and encode the audio of all models.
        """
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.create_task(asyncio.to_thread(self._load, self.options))
        return await asyncio.shield(self._loading)  # it goes on if this client leaves


def engine_models(engines: Mapping[str, Any] | None, load: LoadEngine) -> dict[str, EngineModel]:
    """The models that `engines` describes by their names. Raises UserError if one of them cannot be."""
    models = {}
    for name, values in (engines or {}).items():
        options = engine_options(values) if isinstance(values, Mapping) else None
        if options is None:
            raise UserError(f"engines.{name}={values}: give its engine and model, such as {{name:bark,model:DIR}}")
        models[name] = EngineModel(options, load)
    return models


class EngineStream:
    """The chunks of a text from an engine, for a coroutine, piece by piece in turn with other requests. Leaving the
    block stops the work after the piece that is being made; a piece that still waits for its turn is not made."""

    def __init__(self, engine: VoicedEngine, turns: Turns, text: str, options: SpeechOptions) -> None:
        self.engine, self.turns, self.text, self.options = engine, turns, text, options
        self.faults: list[Fault] = []
        self._loop, self._ready = asyncio.get_running_loop(), asyncio.Event()
        self._changed = threading.Condition()
        self._out: deque[Chunk] = deque()
        self._is_left = self._ended = False
        self._error: Exception | None = None
        threading.Thread(target=self._work, name=f"engine {engine.name}", daemon=True).start()

    async def __aenter__(self) -> EngineStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        with self._changed:
            self._is_left = True
            self._changed.notify_all()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        while True:
            await self._ready.wait()
            self._ready.clear()
            ended = self._ended
            with self._changed:
                chunks = list(self._out)
                self._out.clear()
                self._changed.notify_all()
            for chunk in chunks:
                yield chunk
            if ended:
                if self._error:
                    raise as_api_error(self._error)
                return

    # ---- the thread ----

    def _work(self) -> None:
        try:
            self._speak()
        except Exception as error:
            self._error = error
        self._ended = True
        self._tell()

    def _speak(self) -> None:
        self.engine.check_length(self.text)
        audio, is_silent = self.engine.audio, True
        parts = self.engine.parts([self.text], 1, self.options)
        while True:
            with self.turns.turn():  # a model makes one piece at a time anyway
                part = None if self._is_left else next(parts, None)
            if part is None:
                break
            if part.read and part.utterance:
                is_silent = False
                self.faults += part.utterance.faults
                pause = pause_frames(part.read.piece, self.options.pauses, audio) * audio.hop_length
                self._put(torch.nn.functional.pad(part.utterance.audio, (0, pause)))
        if is_silent and not self._is_left:
            raise NothingToSayError("input has no word that can be spoken; send a text with words")

    def _put(self, audio: Tensor) -> None:
        """Give audio to the reader, when it has taken most of what it has got."""
        most = BUFFER_SECONDS * self.engine.audio.sample_rate
        with self._changed:
            while not self._is_left and sum(len(chunk.audio) for chunk in self._out if chunk.audio is not None) > most:
                self._changed.wait()
            self._out.append(Chunk(audio=audio))
        self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._ready.set)
