"""What every request passes before anything reads it: the key, and the size of its body."""

import asyncio
import hmac
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from armd_dist.serving.config import ServingConfig
from armd_dist.serving.refusals import Refusal

BODY_SECONDS = 30.0  # for a body to arrive
KEYED = "/v1/"  # the page, the health and the metrics say nothing of anybody's text


class Guard:
    """An ASGI application around another one. noted: told the path and the status of every answer."""

    def __init__(self, app: ASGIApp, config: ServingConfig, noted: Callable[[str, int], None]) -> None:
        self.app, self.config, self.noted = app, config, noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def note_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.noted(scope["path"], message["status"])
            await send(message)

        try:
            self._check_key(scope)
            body = await self._read(scope, receive)
        except Refusal as refusal:
            await refusal.response()(scope, receive, note_and_send)
            return
        if body is not None:
            await self.app(scope, _again(body, receive), note_and_send)

    def _check_key(self, scope: Scope) -> None:
        if self.config.api_key is None or not scope["path"].startswith(KEYED):
            return
        given = _header(scope, b"authorization")
        if given is None:
            raise Refusal(401, "no API key; send it as 'Authorization: Bearer KEY'", code="missing_api_key")
        kind, _, key = given.partition(b" ")
        right = self.config.api_key.get_secret_value().encode()
        if kind.lower() != b"bearer" or not hmac.compare_digest(key.strip(), right):
            raise Refusal(401, "the API key is not this server's", code="invalid_api_key")

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None where the client has left. Raises Refusal where it is too long, or does not come."""
        longest = self.config.max_body_bytes
        too_long = Refusal(413, f"the body is longer than {longest:,} bytes; send less", code="body_too_large")
        length = _header(scope, b"content-length") or b"0"
        if length.isdigit() and (len(length) > 18 or int(length) > longest):
            raise too_long
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > longest:
                        raise too_long
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:.0f} seconds", code="timeout") from None
        return b"".join(parts)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body once more, then whatever comes after it: that the client leaves."""
    unread = [body]

    async def again() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return again
