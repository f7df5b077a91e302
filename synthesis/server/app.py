"""The application: OpenAI's speech API, health, metrics, and the page over HTTP; and Wyoming beside it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from common.device import resolve_device
from common.errors import UserError, did_you_mean
from synthesis.engines.loading import load_engine
from synthesis.engines.options import EngineOptions
from synthesis.engines.protocol import VoicedEngine
from synthesis.scheduler.scheduler import Scheduler
from synthesis.server.admission import Admission
from synthesis.server.answer import SpeechAnswer
from synthesis.server.encoders import CONTENT_TYPES
from synthesis.server.engines import engine_models
from synthesis.server.errors import ApiError, ErrorEnvelope
from synthesis.server.guard import Guard, Keys
from synthesis.server.metrics import Metrics
from synthesis.server.options import ServerOptions
from synthesis.server.shelf import Shelf
from synthesis.server.speech import SpeechRequest
from synthesis.server.studio import Studio
from synthesis.server.wyoming import Wyoming
from synthesis.synthesizer import Synthesizer
from synthesis.voices import Voice

MODEL = "tacotron2-waveglow"
# The names that OpenAI's clients use mean the same here.
MODELS = (MODEL, "tts-1", "tts-1-hd", *(f"gpt-4o-mini-tts{date}" for date in ("", "-2025-03-20", "-2025-12-15")))
PAGE = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
LOCAL = {"localhost", "127.0.0.1", "[::1]"}
log = logging.getLogger("tts")


def create_studio(options: ServerOptions, lanes: int) -> Studio:
    """Everything but HTTP. Raises UserError if an option does not hold."""
    device = resolve_device(options.device)

    def load(voice: Voice) -> Synthesizer:
        synthesizer = Synthesizer.load(voice, device=device, precision=options.precision)
        synthesizer.warm_up()
        return synthesizer

    shelf = Shelf(options.voices, options.aliases or {}, load)

    def load_model(engine: EngineOptions) -> VoicedEngine:
        loaded = load_engine(engine, device, options.precision)
        loaded.warm_up()
        return loaded

    engines = engine_models(options.engines, load_model)
    for name in MODELS:
        if name in engines:
            raise UserError(f"engines.{name}: this is a name of Tacotron 2 + WaveGlow; choose another")
    admission, metrics = Admission(options.max_requests, options.max_requests_per_key), Metrics()
    scheduler = Scheduler(options.speech, lanes, options.max_rows)
    metrics.watch("tts_requests_in_progress", "Requests that wait or run", lambda: admission.count)
    metrics.watch("tts_requests_limit", "Requests that may wait or run", lambda: admission.total)
    metrics.watch("tts_decoder_rows", "Pieces in the decoder's batches", lambda: scheduler.num_rows)
    return Studio(options, shelf, scheduler, admission, metrics, engines)


def create_app(options: ServerOptions, lanes: int = 1, wyoming_listener: socket.socket | None = None) -> FastAPI:
    """The application, which also serves Wyoming on `wyoming_listener`; `lanes` are the threads of its scheduler.

    Raises UserError if an option does not hold, or if the first voice cannot be loaded."""
    keys, studio = Keys.load(options.keys), create_studio(options, lanes)
    studio.shelf.get(next(iter(studio.shelf.voices)))  # a damaged one is told before anything is served
    wyoming = Wyoming(studio, wyoming_listener) if wyoming_listener else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if wyoming:
            await wyoming.start()
        app.state.is_ready = True
        yield
        studio.admission.is_closing = True
        if wyoming:
            await wyoming.close()
        await asyncio.to_thread(studio.scheduler.close)

    app = FastAPI(title="Tacotron 2 + WaveGlow", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.studio, app.state.is_ready = studio, False
    _add_errors(app)
    _add_speech(app, studio)
    _add_state(app, studio)
    _add_page(app)
    _openapi(app)
    hosts = {*LOCAL, options.host} if options.is_local else None
    app.add_middleware(
        Guard, keys=keys, max_body_bytes=options.max_body_bytes, client_seconds=options.client_seconds, hosts=hosts
    )
    if options.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=options.cors, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def wrong_field(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = first["loc"][1:]
        place = [*place[:1], *(part for part in place[1:] if isinstance(part, int))]  # not the names of types
        param = ".".join(map(str, place)) if place and first["type"] != "json_invalid" else None
        message = f"{param}: {first['msg']}" if param else f"the body is not what it should be: {first['msg']}"
        return ApiError(400, message, first["type"], param).response()

    @app.exception_handler(HTTPException)
    async def wrong_route(request: Request, error: HTTPException) -> Response:
        message = str(error.detail)
        if error.status_code in (404, 405):
            message = f"{request.method} {request.url.path[:100]}: {message}; GET /openapi.json lists what there is"
        response = ApiError(error.status_code, message, None).response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return ApiError(500, "the server failed; its log says more", "internal_error").response()


def _add_speech(app: FastAPI, studio: Studio) -> None:
    formats: Mapping[str, Any] = {kind.split(";")[0]: {} for kind in (*CONTENT_TYPES.values(), "text/event-stream")}
    described: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "model": ErrorEnvelope}
        for status, text in (
            (400, "The request is wrong"), (401, "No key, or a wrong one"), (404, "No such model or voice"),
            (408, "The body did not arrive in time"), (413, "The body is too large"),
            (429, "Too many requests: see Retry-After"), (500, "The models failed"),
            (503, "Shutting down, or no audio in time"),
        )
    }  # fmt: skip

    @app.post(
        "/v1/audio/speech",
        response_class=Response,
        responses={200: {"description": "The audio, while it is made", "content": dict(formats)}, **described},
    )
    async def speech(body: SpeechRequest, request: Request) -> Response:
        """Speak a text."""
        known_model(body.model)
        return SpeechAnswer(studio, body, request.state.client)

    def known_model(name: str) -> None:
        if name not in (known := [*MODELS, *studio.engines]):
            message = f"model {name[:60]!r} is unknown{did_you_mean(name[:60], known)}"
            raise ApiError(404, message, "model_not_found", "model")

    @app.get("/v1/audio/voices", responses={404: described[404]})
    async def voices(model: str = MODEL) -> dict[str, Any]:
        """The names of the voices of a model."""
        known_model(model)
        names = studio.shelf.names()
        if model in studio.engines:
            names = {name: name for name in await studio.engine_voices(model)}
        return {"voices": [{"id": name, "name": title} for name, title in names.items()]}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The names of models: those of Tacotron 2 + WaveGlow, which all mean the same, and of engines."""
        return {"object": "list", "data": [_model(name) for name in (*MODELS, *studio.engines)]}

    @app.get("/v1/models/{name:path}", responses={404: described[404]})
    async def model(name: str) -> dict[str, Any]:
        """A model."""
        known_model(name)
        return _model(name)


def _openapi(app: FastAPI) -> None:
    """FastAPI lists status 422, which this server does not give."""
    document = app.openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": MODEL}


def _add_state(app: FastAPI, studio: Studio) -> None:
    @app.get("/healthz")
    async def alive() -> dict[str, str]:
        """The process runs."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> Response:
        """It can take a request."""
        if studio.admission.is_closing or not app.state.is_ready:
            return ApiError(503, "not ready", "not_ready", retry=1).response()
        if studio.admission.count >= studio.admission.total:
            return ApiError(503, "the queue is full", "queue_full", retry=1).response()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(studio.metrics.text(), media_type=studio.metrics.content_type)


def _add_page(app: FastAPI) -> None:
    folder = Path(__file__).parent / "page"

    def add(path: str, name: str, kind: str) -> None:
        content = (folder / name).read_bytes()

        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    for path, (name, kind) in PAGE.items():
        add(path, name, kind)
