"""Requests that are not answered, in the shape in which OpenAI's clients expect an error."""

import json
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
TYPES = ("str", "int", "none")


class Refusal(Exception):
    """An answer with a status from 400 on. param: the field that is wrong; code: for programs to tell cases apart."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """`{"error": ...}`."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """As JSON in ASCII: what a client sent may be no text that UTF-8 can spell."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Response(json.dumps(self.body()), self.status, headers, media_type="application/json")


def busy(waiting: int) -> Refusal:
    """Too many texts wait already."""
    message = f"the server is full: {waiting} texts wait for a slot; ask again later"
    return Refusal(429, message, code="server_overloaded")


def closing() -> Refusal:
    """The server has been told to end."""
    return Refusal(503, "the server shuts down and takes no new requests; ask another one", code="shutting_down")


def cut_short() -> Refusal:
    """The server ends before an answer is finished."""
    return Refusal(503, "the server ended before this was finished; ask another one", code="shutting_down")


def of_problems(problems: list[dict[str, Any]]) -> Refusal:
    """All that pydantic found wrong with a body, a place once; `param` is the first one."""
    if any(isinstance(problem.get("input"), bytes) for problem in problems):  # nobody has read it as JSON
        return Refusal(400, "the body is not sent as JSON; send it with the header 'Content-Type: application/json'")
    said: dict[str, str] = {}
    for problem in problems:
        place = "" if problem["type"] == "json_invalid" else _place(problem["loc"])
        if place in said:
            said[place] += f", or: {_rule(problem)}"
        else:
            silent = problem["type"] in ("json_invalid", "missing", "extra_forbidden")
            shown = "" if silent else f"={_shown(problem.get('input'))}"
            said[place] = f"{place or 'the body'}{shown}: {_rule(problem)}"
    return Refusal(400, "; ".join(said.values()), next(iter(said)) or None)


def _place(location: Sequence[str | int]) -> str:
    """Names of fields and numbers in lists, without the names of types that pydantic tried."""
    named = [part for part in location[1:] if isinstance(part, int) or (part.isidentifier() and part not in TYPES)]
    return ".".join(map(str, named))


def _rule(problem: dict[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"is not JSON ({problem['ctx']['error']})"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "extra_forbidden":
        return "is unknown here"
    return problem["msg"].removeprefix("Value error, ")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
