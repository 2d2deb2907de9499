"""One request from its texts to its answer: waiting, streaming, time-outs, and clients that leave."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from armd_dist.generation.underway import Text
from armd_dist.serving.engine import Engine, Step, Ticket
from armd_dist.serving.metrics import Metrics
from armd_dist.serving.protocol import Asked, StreamOptions
from armd_dist.serving.refusals import Refusal
from armd_dist.serving.replies import Reply
from armd_dist.serving.written import Written
from data_pipeline.tokenizer import Tokenizer

GONE = 499  # nginx's status for a client that left; nobody receives it


class Answering:
    """Texts of one request under way. seconds: that they have. Raises Refusal where the engine takes no more."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        tokenizer: Tokenizer,
        texts: Sequence[Text],
        asked: Asked,
        seconds: float,
    ) -> None:
        self._engine, self._metrics, self._seconds = engine, metrics, seconds
        self._began = time.monotonic()
        stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        self.written = [Written(text, tokenizer, stops) for text in texts]
        self._tickets: list[Ticket] = engine.submit(texts)

    async def steps(self) -> AsyncIterator[tuple[int, Step]]:
        """Each text's steps as they are made, `written` up to date, until all texts are finished.

        Raises Refusal where time is over or the engine fails. Whoever asks calls `leave` in the end.
        """
        running, first = {ticket.number for ticket in self._tickets}, True
        while running:
            number, step = await self._event()
            if number not in running:
                continue
            self.written[number].take(step)
            if first and self.written[number].tokens:
                self._metrics.first_text.observe(time.monotonic() - self._began)
                first = False
            if self.written[number].finish is not None:
                running.discard(number)
                if not step.done:
                    self._engine.give_up([self._tickets[number]])
            yield number, step
        self._metrics.whole_text.observe(time.monotonic() - self._began)

    def leave(self) -> None:
        """Nobody waits for the answer any more, or it is there; also where no step was ever asked for."""
        self._engine.give_up(self._tickets)

    async def _event(self) -> tuple[int, Step]:
        try:
            async with asyncio.timeout(self._began + self._seconds - time.monotonic()):
                number, event = await self._tickets[0].events.get()
        except TimeoutError:
            message = f"the request took longer than {self._seconds:g} seconds; ask for fewer tokens, or later"
            raise Refusal(504, message, code="timeout") from None
        if isinstance(event, Refusal):
            raise event
        return number, event


async def whole(answering: Answering, reply: Reply, request: Request) -> Response:
    """One object. Raises Refusal."""

    async def to_the_end() -> Response:
        async for _ in answering.steps():
            pass
        return JSONResponse(reply.whole(answering.written))

    try:
        return await _while_wanted(to_the_end(), request)
    finally:
        answering.leave()


class Events(StreamingResponse):
    """Server-sent events of an answer, which is given up however this ends, be it before the first one."""

    def __init__(self, events: AsyncIterator[str], answering: Answering) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.leave()


def streamed(answering: Answering, reply: Reply, options: StreamOptions) -> Response:
    """Server-sent events. An error after the first of them is an event too."""

    async def events() -> AsyncIterator[str]:
        try:
            if reply.kind == "chat":
                yield _event(reply.roles(len(answering.written)))
            async for number, step in answering.steps():
                chunk = reply.chunk(number, answering.written[number], step if options.armd_positions else None)
                if chunk is not None:
                    yield _event(chunk)
            if options.include_usage:
                yield _event(reply.last(answering.written))
            yield "data: [DONE]\n\n"
        except Refusal as refusal:
            yield _event(refusal.body())

    return Events(events(), answering)


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def _while_wanted(answer: Coroutine[Any, Any, Response], request: Request) -> Response:
    """The answer, unless the client leaves before it is there."""
    working, leaving = asyncio.create_task(answer), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=GONE)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
