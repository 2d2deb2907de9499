"""A server without a socket, and what is asked of it."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from armd_dist.serving.engine import Engine

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
Serve = Callable[..., AbstractAsyncContextManager["InProcess"]]


@dataclass
class InProcess:
    """The application and its engine."""

    client: httpx.AsyncClient
    engine: Engine

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json={"model": "tiny", **body})


def post(serve: Serve, path: str, content: bytes, **settings: Any) -> httpx.Response:
    """The answer to one body, of a server with these settings."""

    async def ask() -> httpx.Response:
        async with serve(**settings) as server:
            return await server.client.post(path, content=content, headers=JSON)

    return asyncio.run(ask())


def refused(response: httpx.Response, status: int, param: str | None = None) -> str:
    """The message of an answer in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param, error
    return error["message"]


def events_of(text: str) -> list[dict[str, Any]]:
    """Of a whole stream."""
    *events, last = [line.removeprefix("data: ") for line in text.strip().split("\n\n")]
    assert last == "[DONE]"
    return [json.loads(event) for event in events]


def mixed(count: int) -> list[dict[str, Any]]:
    """Requests of many lengths and streams."""
    words = ("The value", "to", "a list of", "", "Return the first of these", "None")
    return [
        {"prompt": f"{words[n % 6]} {n}", "max_tokens": 5 + 7 * n % 30, "streams": (1, 2, 4, 5)[n % 4]}
        for n in range(count)
    ]
