"""The HTTP interface: OpenAI's paths, a page to look at, health and metrics."""

import asyncio
import time
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from armd_dist.serving.answering import Answering, streamed, whole
from armd_dist.serving.asking import Reader
from armd_dist.serving.config import ServingConfig
from armd_dist.serving.engine import Engine
from armd_dist.serving.guard import Guard
from armd_dist.serving.metrics import Metrics
from armd_dist.serving.protocol import Asked, ChatRequest, CompletionRequest, StreamOptions
from armd_dist.serving.refusals import Refusal, of_problems
from armd_dist.serving.replies import ChatCompletion, Completion, Error, Reply

PAGE = Path(__file__).with_name("page.html")
# Nothing from elsewhere: the page's own script and style, and this server.
PAGE_RULES = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": Error}, "5XX": {"model": Error}}
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def make_app(config: ServingConfig, reader: Reader, engine: Engine) -> FastAPI:
    """The application; the engine is started by whoever runs it."""
    app = FastAPI(title="armd serve", version="1", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    metrics, began = Metrics(engine), int(time.time())
    app.add_middleware(Guard, config=config, noted=metrics.note)
    _tell_errors(app)
    _tell_state(app, config, engine, metrics)
    card = {"id": config.name, "object": "model", "created": began, "owned_by": "armd", "max_model_len": reader.longest}

    @app.get("/v1/models", responses=ERRORS)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", responses=ERRORS)
    async def model(model: str) -> dict[str, Any]:
        _check_model(model, config)
        return card

    async def answer(request: Request, asked: Asked, reply: Reply, read: Any) -> Response:
        _check_model(asked.model, config)
        if asked.stream_options is not None and not asked.stream:
            raise Refusal(400, "stream_options: is for stream=true; leave it out", "stream_options")
        texts = await asyncio.to_thread(read, asked)
        seconds = config.request_timeout
        answering = Answering(engine, metrics, reader.tokenizer, texts, asked, seconds)
        if asked.stream:
            return streamed(answering, reply, asked.stream_options or StreamOptions())
        return await whole(answering, reply, request)

    @app.post(
        "/v1/completions", response_model=None, responses={200: {"model": Completion, "content": EVENTS}, **ERRORS}
    )
    async def completions(request: Request, asked: CompletionRequest) -> Response:
        reply = Reply("completion", config.name, reader.tokenizer, asked.logprobs is not None)
        return await answer(request, asked, reply, reader.completion)

    @app.post(
        "/v1/chat/completions",
        response_model=None,
        responses={200: {"model": ChatCompletion, "content": EVENTS}, **ERRORS},
    )
    async def chat(request: Request, asked: ChatRequest) -> Response:
        reply = Reply("chat", config.name, reader.tokenizer, bool(asked.logprobs))
        return await answer(request, asked, reply, reader.chat)

    return app


def _check_model(asked: str, config: ServingConfig) -> None:
    if asked != config.name:
        raise Refusal(404, f"model={asked!r}: is not here; use {config.name!r}", "model", "model_not_found")


def _tell_state(app: FastAPI, config: ServingConfig, engine: Engine, metrics: Metrics) -> None:
    """The paths that need no key."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": PAGE_RULES})

    @app.get("/health", responses=ERRORS)
    async def health() -> dict[str, Any]:
        if engine.closing:
            raise Refusal(503, "the server shuts down", code="shutting_down")
        if not engine.alive:
            raise Refusal(503, "the model's thread has ended; start the server again", code="engine_dead")
        return {"status": "ok", "model": config.name, "running": engine.running, "waiting": engine.waiting}

    @app.get("/metrics", response_model=None, responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _tell_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Exception) -> Response:
        return cast(Refusal, error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        return of_problems(list(cast(RequestValidationError, error).errors())).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: Exception) -> Response:
        found = cast(HTTPException, error)
        said = f"{request.method} {request.url.path}: {str(found.detail).lower()}"
        response = Refusal(found.status_code, said).response()
        response.headers.update(found.headers or {})
        return response

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse(Refusal(500, "the server failed; its log says more").body(), 500)
