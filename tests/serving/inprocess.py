"""A server without a socket, and what is asked of it."""

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import httpx

from armd_dist.serving.engine import Engine

Serve = Callable[..., AbstractAsyncContextManager["InProcess"]]


@dataclass
class InProcess:
    """The application and its engine."""

    client: httpx.AsyncClient
    engine: Engine

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.client.post(path, json={"model": "tiny", **body})


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
