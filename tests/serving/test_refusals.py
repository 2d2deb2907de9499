"""What is wrong with a request is its sender's to mend: a status from 400 on, in OpenAI's shape, never a 500."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from inprocess import CHATS, COMPLETIONS, JSON, InProcess, Serve, post, refused
from pydantic import SecretStr

from armd_dist.model.armd import ARMD

FINE: dict[str, Any] = {"model": "tiny", "prompt": "to", "max_tokens": 4}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "to"}], "max_tokens": 4}


BAD_FIELDS = [
    ({"model": "gpt-4"}, 404, "model", "is not here; use 'tiny'"),
    ({"prompt": 3}, 400, "prompt", "should be a valid string"),
    ({"prompt": None}, 400, "prompt", "None"),
    ({"prompt": []}, 400, "prompt", "holds no prompt"),
    ({"prompt": [400]}, 400, "prompt", "token 400 is outside of the vocabulary; use 0 to 399"),
    (
        {"prompt": [-1]},
        400,
        "prompt",
        "prompt.0=-1: Input should be a valid string, or: Input should be greater than or equal to 0",
    ),
    ({"prompt": ["a", 3]}, 400, "prompt", "prompt.1=3: Input should be a valid string, or: "),
    ({"prompt": "\ud800"}, 400, "prompt", "half of a surrogate pair"),
    ({"prompt": "to be " * 300}, 400, "max_tokens", "exceed the model's length of 128"),
    ({"max_tokens": 129}, 400, "max_tokens", "129 new ones exceed the model's length of 128"),
    ({"max_tokens": -1}, 400, "max_tokens", "max_tokens=-1: Input should be greater than or equal to 1"),
    ({"max_tokens": "4"}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 4.5}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": True}, 400, "max_tokens", "valid integer"),
    ({"max_tokens": 10**30}, 400, "max_tokens", "less than"),
    ({"temperature": float("nan")}, 400, "temperature", "finite number"),
    ({"temperature": float("inf")}, 400, "temperature", "finite number"),
    ({"temperature": -0.1}, 400, "temperature", "greater than or equal to 0"),
    ({"temperature": 5e-324}, 400, "temperature", "use 0 for the likeliest token, or a number from 0.01 up"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"top_p": 0}, 400, "top_p", "greater than or equal to 0.000001"),
    ({"top_p": 5e-324}, 400, "top_p", "greater than or equal to 0.000001"),
    ({"top_k": 0}, 400, "top_k", "greater than or equal to 1"),
    ({"min_p": 2}, 400, "min_p", "less than or equal to 1"),
    ({"streams": 5}, 400, "streams", "4 tokens can be generated in 1 to 4 streams"),
    ({"streams": 0}, 400, "streams", "greater than or equal to 1"),
    ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
    ({"seed": 2**70}, 400, "seed", "less than or equal to"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 100}, 400, "n", "asks for 100 texts in one request; 12 are the most here"),
    ({"prompt": [[]] * 9, "n": 2}, 400, "n", "asks for 18 texts"),
    ({"stop": ""}, 400, "stop", "at least 1 character"),
    ({"stop": ["a"] * 17}, 400, "stop", "at most 16 items"),
    ({"logprobs": 21}, 400, "logprobs", "less than or equal to 20"),
    ({"echo": True}, 400, "echo", "False"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "is not supported here; leave it out"),
    ({"logit_bias": {"3": 5}}, 400, "logit_bias", "is not supported here; leave it out"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", "is for stream=true"),
    ({"stream": True, "stream_options": {"extra": 1}}, 400, "stream_options.extra", "is unknown here"),
    ({"steams": 4}, 400, "steams", "is unknown here"),
]
BAD_CHATS = [
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": ["to"]}, "messages.0", "valid dictionary"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "is missing"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "'text'"),
    ({"messages": [{"role": "user", "content": "to " * 300}]}, "max_tokens", "exceed the model's length"),
    ({"tools": [{"type": "function"}]}, "tools", "is not supported here; leave it out"),
    ({"response_format": {"type": "json_object"}}, "response_format.type", "should be 'text'"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs=true"),
    ({"max_completion_tokens": 3}, "max_tokens", "older name of max_completion_tokens"),
]


def test_fields_that_are_wrong(serve: Serve) -> None:
    async def ask() -> list[tuple[httpx.Response, int, str | None, str]]:
        async with serve(max_queue=8) as server:
            cases = [(COMPLETIONS, FINE, *case) for case in BAD_FIELDS]
            cases += [(CHATS, CHAT, fields, 400, param, said) for fields, param, said in BAD_CHATS]
            return [
                (await _send(server, path, {**fine, **fields}), status, param, said)
                for path, fine, fields, status, param, said in cases
            ]

    for response, status, param, said in asyncio.run(ask()):
        assert said in refused(response, status, param)


async def _send(server: InProcess, path: str, body: dict[str, Any]) -> httpx.Response:
    return await server.client.post(path, content=json.dumps(body).encode(), headers=JSON)


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "is missing"),
        (b"{", 400, "is not JSON"),
        (b"[]", 400, "valid dictionary"),
        (b"null", 400, "valid dictionary"),
        (b"\xff\xfe", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b'{"model": "tiny", "prompt": "a", "seed": 1' + b"0" * 5000 + b"}", 400, "body"),
        (json.dumps({**FINE, "prompt": "a" * 5000}).encode(), 413, "longer than 4,096 bytes"),
    ],
)
def test_bodies_that_cannot_be_read(content: bytes, status: int, said: str, serve: Serve) -> None:
    settings = {"max_body_bytes": 4096} if status == 413 else {}
    assert said in refused(post(serve, COMPLETIONS, content, **settings), status)


def test_forms_of_other_sites_are_no_requests(serve: Serve) -> None:
    """What a browser sends elsewhere without asking first is no JSON by its type."""

    async def ask() -> list[httpx.Response]:
        async with serve() as server:
            content = json.dumps(FINE).encode()
            plain = await server.client.post(COMPLETIONS, content=content, headers={"Content-Type": "text/plain"})
            before = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
            return [plain, await server.client.options(COMPLETIONS, headers=before)]

    plain, asked = asyncio.run(ask())
    assert "send it with the header 'Content-Type: application/json'" in refused(plain, 400)
    refused(asked, 405)
    assert not [name for name in asked.headers if name.startswith("access-control")]


def test_a_body_in_pieces_is_measured_too(serve: Serve) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * 1000

    async def ask() -> httpx.Response:
        async with serve(max_body_bytes=4096) as server:
            return await server.client.post(COMPLETIONS, content=pieces(), headers=JSON)

    refused(asyncio.run(ask()), 413)


def test_paths_and_methods_that_are_not_there(serve: Serve) -> None:
    async def ask() -> list[httpx.Response]:
        async with serve() as server:
            get, post = server.client.get, server.client.post
            return [await get("/v1/nothing"), await get(COMPLETIONS), await get("/v1/models/other"), await post("/")]

    nothing, method, model, page = asyncio.run(ask())
    assert "GET /v1/nothing: not found" in refused(nothing, 404)
    assert "GET /v1/completions: method not allowed" in refused(method, 405)
    assert "POST" in method.headers["allow"]
    assert "is not here; use 'tiny'" in refused(model, 404, "model")
    refused(page, 405)


def test_the_key(serve: Serve) -> None:
    async def ask() -> tuple[list[httpx.Response], list[httpx.Response]]:
        async with serve(api_key=SecretStr("open")) as server:
            headers = [{}, *({"Authorization": a} for a in ("Bearer shut", "open", "Bearer ", "Bearer open"))]
            sent = [await server.client.post(COMPLETIONS, json=FINE, headers=one) for one in headers]
            return sent, [await server.client.get(path) for path in ("/", "/health", "/metrics", "/v1/models")]

    (none, wrong, bare, empty, right), (page, health, metrics, models) = asyncio.run(ask())
    assert "no API key" in refused(none, 401)
    assert none.headers["www-authenticate"] == "Bearer"
    for response in (wrong, bare, empty):
        assert "is not this server's" in refused(response, 401)
    assert right.status_code == page.status_code == health.status_code == metrics.status_code == 200
    refused(models, 401)


def test_more_than_may_wait_is_sent_away_and_nothing_of_it_stays(serve: Serve) -> None:
    async def ask() -> tuple[list[httpx.Response], httpx.Response]:
        async with serve(slots=2, max_queue=3) as server:
            body = {"prompt": "to", "max_tokens": 25, "temperature": 0}
            several = await asyncio.gather(*(server.post(COMPLETIONS, **body) for _ in range(9)))
            return several, await server.post(COMPLETIONS, **body, n=5)

    several, after = asyncio.run(ask())
    busy = [one for one in several if one.status_code != 200]
    assert len(busy) == 4
    for response in busy:
        assert "wait for a slot; ask again later" in refused(response, 429)
        assert response.headers["retry-after"] == "1"
    assert after.status_code == 200
    assert len({one.json()["choices"][0]["text"] for one in several if one.status_code == 200}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_time_is_limited_and_the_slots_come_free(stream: bool, serve: Serve) -> None:
    async def ask() -> httpx.Response:
        async with serve(request_timeout=0.05) as server:
            response = await server.post(COMPLETIONS, prompt="to", max_tokens=120, n=8, stream=stream)
            for _ in range(200):
                if server.engine.idle:
                    return response
                await asyncio.sleep(0.02)
            raise AssertionError("the slots must come free")

    response = asyncio.run(ask())
    error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]
    assert response.status_code == (200 if stream else 504)
    assert (error["code"], error["type"]) == ("timeout", "server_error")


def test_a_model_that_fails_ends_what_runs_and_serves_on(
    serve: Serve, opened: tuple[ARMD, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = ARMD.forward

    async def ask() -> list[httpx.Response]:
        async with serve() as server:
            for fault in (_fails, lambda *given, **more: forward(*given, **more) * float("nan"), forward):
                monkeypatch.setattr(ARMD, "forward", fault)
                answers.append(await server.post(COMPLETIONS, prompt="to", max_tokens=4, temperature=0))
            assert server.engine.idle
            return answers

    answers: list[httpx.Response] = []
    failed, nonsense, fine = asyncio.run(ask())
    assert "the model failed: RuntimeError" in refused(failed, 500)
    assert "numbers that are not finite" in refused(nonsense, 500)
    assert fine.status_code == 200


def test_what_is_not_done_at_the_end_is_told(serve: Serve) -> None:
    async def ask() -> tuple[list[httpx.Response], httpx.Response]:
        async with serve(slots=1) as server:
            running = [asyncio.create_task(server.post(COMPLETIONS, prompt="to", max_tokens=120)) for _ in range(3)]
            while server.engine.running + server.engine.waiting < 3:
                await asyncio.sleep(0.001)
            server.engine.closing = True
            late = await server.post(COMPLETIONS, prompt="to")
            server.engine.fail_all()
            answers = await asyncio.gather(*running)
            while not server.engine.idle:
                await asyncio.sleep(0.001)
            return answers, late

    answers, late = asyncio.run(ask())
    assert "takes no new requests" in refused(late, 503)
    for answer in answers:
        assert "the server ended before this was finished" in refused(answer, 503)


def _fails(*given: Any, **more: Any) -> None:
    raise RuntimeError("out of memory")
