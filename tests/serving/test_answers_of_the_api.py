"""Answers over HTTP are those of one request alone, whole and streamed, in every field that can be asked for."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from inprocess import InProcess, Serve, events_of, mixed

from armd_dist.generation.generate import Sample
from armd_dist.model.armd import ARMD
from data_pipeline.tokenizer import Tokenizer

Alone = Callable[..., Sample]
GREEDY: dict[str, Any] = {"temperature": 0}


def asked(serve: Serve, *bodies: dict[str, Any], path: str = "/v1/completions", **settings: Any) -> list[Any]:
    """Answers of requests sent at the same time."""

    async def ask(server: InProcess, body: dict[str, Any]) -> httpx.Response:
        return await server.post(path, **body)

    async def all_of_them() -> list[httpx.Response]:
        async with serve(**settings) as server:
            return await asyncio.gather(*(ask(server, body) for body in bodies))

    answers = asyncio.run(all_of_them())
    assert all(one.status_code == 200 for one in answers), [one.text for one in answers]
    return [events_of(one.text) if one.text.startswith("data") else one.json() for one in answers]


def test_many_at_once_are_answered_as_alone(serve: Serve, alone: Alone) -> None:
    bodies = mixed(12)
    answers = asked(serve, *({**body, **GREEDY, "logprobs": 0} for body in bodies))
    for body, said in zip(bodies, answers, strict=True):
        one = alone(body["prompt"], body["max_tokens"], body["streams"])
        (choice,) = said["choices"]
        assert choice["text"] == one.text
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(one.logprobs, abs=1e-4)
        assert said["usage"]["completion_tokens"] == len(one.tokens)
        assert said["usage"]["armd_passes"] == one.passes
    assert len({said["choices"][0]["text"] for said in answers}) > 10, "answers must differ to be told apart"


def test_seeds_make_texts(serve: Serve, alone: Alone) -> None:
    body = {"prompt": ["to", "a"], "n": 2, "seed": 7, "max_tokens": 12, "temperature": 1.5, "top_p": 0.9, "streams": 3}
    (said,) = asked(serve, body)
    drawn = {"temperature": 1.5, "top_p": 0.9}
    wanted = [alone(p, 12, 3, seed=seed, **drawn) for p, seed in (("to", 7), ("to", 8), ("a", 9), ("a", 10))]
    assert [choice["text"] for choice in said["choices"]] == [one.text for one in wanted]
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2, 3]
    assert len({one.text for one in wanted}) == 4


def test_tokens_are_a_prompt_too(serve: Serve, opened: tuple[ARMD, Tokenizer], alone: Alone) -> None:
    ids = opened[1].encode("The value")
    one, several = asked(serve, {"prompt": ids, **GREEDY}, {"prompt": [ids, ids[:2]], **GREEDY})
    assert one["choices"][0]["text"] == several["choices"][0]["text"] == alone("The value", 16).text


@pytest.mark.parametrize("streams", [1, 3])
def test_a_suffix_makes_a_hole(streams: int, serve: Serve, opened: tuple[ARMD, Tokenizer], alone: Alone) -> None:
    body = {"prompt": "The value", "suffix": " of the list", "max_tokens": 9, "streams": streams, **GREEDY}
    whole, events = asked(serve, body, {**body, "stream": True})
    one = alone("The value", 9, streams, suffix=" of the list")
    (choice,) = whole["choices"]
    assert choice["text"] == opened[1].decode(one.tokens)
    assert choice["finish_reason"] == "length"
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
    assert choice["text"] != alone("The value", 9, streams).text


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_streamed_text_is_the_whole_text(streams: int, serve: Serve, alone: Alone) -> None:
    body = {"prompt": "The value", "max_tokens": 22, "streams": streams, "stream": True, "logprobs": 1, **GREEDY}
    options = {"include_usage": True, "armd_positions": True}
    plain, landing = asked(serve, body, {**body, "stream_options": options})
    one = alone("The value", 22, streams)
    for events in (plain, landing):
        choices = [choice for event in events for choice in event["choices"]]
        assert "".join(choice["text"] for choice in choices) == one.text
        assert [choice["finish_reason"] for choice in choices][-1] == "length"
        nats = [value for choice in choices for value in choice["logprobs"]["token_logprobs"]]
        assert nats == pytest.approx(one.logprobs, abs=1e-4)
    assert landing[-1]["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 22,
        "total_tokens": 29,
        "armd_passes": one.passes,
    }
    landed = [choice["armd_positions"] for event in landing[:-1] for choice in event["choices"]]
    assert [len(tokens) for tokens in landed][:streams] == [1] * streams
    assert all(len(tokens) <= streams for tokens in landed)
    found = {token["position"]: token["token"] for tokens in landed for token in tokens}
    assert [found[place] for place in range(22)] == one.tokens


def test_text_stops_before_a_stop(serve: Serve, alone: Alone) -> None:
    text = alone("The value", 40).text
    stops = [text[9:12], text[20:22]]
    where = min(text.index(stop) for stop in stops)
    body = {"prompt": "The value", "max_tokens": 40, "stop": stops, "logprobs": 0, **GREEDY}
    for streams in (1, 4):
        wanted = alone("The value", 40, streams).text
        at = min((wanted.index(stop) for stop in stops if stop in wanted), default=None)
        whole, events = asked(serve, {**body, "streams": streams}, {**body, "streams": streams, "stream": True})
        (choice,) = whole["choices"]
        assert choice["text"] == wanted[:at]
        assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]
        assert choice["finish_reason"] == ("length" if at is None else "stop")
        assert all(offset < len(choice["text"]) for offset in choice["logprobs"]["text_offset"])
    assert 0 < where < len(text)


def test_likeliest_tokens(serve: Serve) -> None:
    completion = {"prompt": "to", "max_tokens": 4, "logprobs": 3, **GREEDY}
    (said,) = asked(serve, completion)
    found = said["choices"][0]["logprobs"]
    for token, nats, tops in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert len(tops) == 3
        assert tops[token] == pytest.approx(nats, abs=1e-5) == pytest.approx(max(tops.values()), abs=1e-5)


def test_chat_follows_the_template(serve: Serve, opened: tuple[ARMD, Tokenizer]) -> None:
    tokenizer = opened[1]
    messages = [{"role": "user", "content": [{"type": "text", "text": "a</s>"}, {"type": "text", "text": "b"}]}]
    body = {"messages": messages, "max_completion_tokens": 10, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole, events = asked(serve, body, {**body, "stream": True}, path="/v1/chat/completions")
    prompt = [*tokenizer.encode("user: a</s>b"), tokenizer.eos_id, *tokenizer.encode("assistant:")]
    (plain,) = asked(serve, {"prompt": prompt, "max_tokens": 10, **GREEDY})
    (choice,) = whole["choices"]
    assert choice["message"] == {"role": "assistant", "content": plain["choices"][0]["text"], "refusal": None}
    assert whole["usage"]["prompt_tokens"] == len(prompt)
    said = choice["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in said] == [2] * len(said)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == choice["message"]["content"]


def test_what_clients_send_of_their_own_at_its_default_is_taken(serve: Serve) -> None:
    body = {"messages": [{"role": "user", "content": "to"}], "max_tokens": 4, **GREEDY}
    unused = {"tools": [], "tool_choice": None, "store": False, "parallel_tool_calls": True, "metadata": {"a": "b"}}
    unused |= {"response_format": {"type": "text"}, "service_tier": "auto", "logit_bias": {}, "stream_options": None}
    plain, all_of_it = asked(serve, body, body | unused, path="/v1/chat/completions")
    assert plain["choices"] == all_of_it["choices"]


def test_models_health_metrics_and_page(serve: Serve) -> None:
    async def look() -> list[httpx.Response]:
        async with serve() as server:
            await server.post("/v1/completions", prompt="to", max_tokens=3)
            paths = ("/v1/models", "/v1/models/tiny", "/health", "/metrics", "/", "/openapi.json")
            return [await server.client.get(path) for path in paths]

    models, model, health, metrics, page, schema = asyncio.run(look())
    assert models.json()["data"] == [model.json()]
    assert (model.json()["id"], model.json()["max_model_len"]) == ("tiny", 128)
    assert health.json() == {"status": "ok", "model": "tiny", "running": 0, "waiting": 0}
    assert "armd_tokens_generated_total 3.0" in metrics.text
    assert 'armd_requests_total{path="/v1/completions",status="200"} 1.0' in metrics.text
    assert "://" not in page.text, "the page must need nothing from elsewhere"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert set(schema.json()["paths"]) >= {"/v1/completions", "/v1/chat/completions"}
