"""A real server under OpenAI's own client: many at once, clients that are killed, keys, SIGTERM."""

import asyncio
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from browser import ask, open_page
from inprocess import mixed
from process import KEY, Served, serving
from ranks import TIMEOUT_SECONDS

CLIENTS, EACH = 8, 5
LONG = {"prompt": "to", "max_tokens": 120, "n": 60}
CHROMIUM = shutil.which("chromium")
SHOWN = ("text", "count", "passes", "model", "problem")  # of the page


@pytest.fixture(scope="module")
def served(export: Path) -> Iterator[Served]:
    with serving(export) as server:
        yield server


def test_many_clients_get_each_its_own_answer(served: Served) -> None:
    bodies = mixed(CLIENTS * EACH)
    single = [served.ask(served.client(), body) for body in bodies]
    assert len(set(single)) > 0.9 * len(bodies), "answers must differ to be told apart"
    passes = served.metric("armd_passes_total")

    def work(number: int) -> list[str]:
        client = served.client()
        return [served.ask(client, body) for body in bodies[number::CLIENTS]]

    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(work, range(CLIENTS)))
    for number, answers in enumerate(together):
        assert answers == single[number::CLIENTS]
    assert served.metric("armd_passes_total") - passes < passes / 2, "they must run together"


def test_errors_are_the_clients_own_kinds(served: Served) -> None:
    client = served.client()
    with pytest.raises(openai.NotFoundError, match="is not here; use 'tiny'"):
        client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError, match="greater than or equal to 1") as raised:
        client.completions.create(model="tiny", prompt="a", max_tokens=-1)
    assert raised.value.param == "max_tokens"
    with pytest.raises(openai.AuthenticationError, match="is not this server's"):
        client.with_options(api_key="another").models.list()
    assert [model.id for model in client.models.list()] == ["tiny"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_client_frees_its_slots(stream: bool, served: Served) -> None:
    placed, cancelled = served.metric("armd_tokens_generated_total"), served.metric("armd_texts_cancelled_total")
    host, port = served.address.removeprefix("http://").split(":")
    body = httpx.Request("POST", served.address, json={"model": "tiny", "stream": stream, **LONG}).content
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        while served.metric("armd_tokens_generated_total") < placed + 20:
            time.sleep(0.01)
    served.wait_until_idle(5)
    assert served.metric("armd_texts_cancelled_total") - cancelled > 40
    assert served.metric("armd_tokens_generated_total") - placed < 0.5 * LONG["n"] * LONG["max_tokens"]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here, so nobody looks at the page")
def test_the_page_shows_streams_that_fill_in(served: Served) -> None:
    prompt, tokens = "Return the first of these", 60
    wanted = served.ask(served.client(), {"prompt": prompt, "max_tokens": tokens, "streams": 4})

    async def look() -> tuple[list[str], list[str], list[str]]:
        async with open_page(str(CHROMIUM), served.address) as tab:
            await ask(tab, prompt, streams=4, tokens=tokens, temperature=0, key="wrong")
            problem = await tab.until("document.getElementById('problem').textContent")
            tab.said.clear()  # a browser notes every 401
            await ask(tab, prompt, streams=4, tokens=tokens, temperature=0, key=KEY)
            seen = [problem]
            while not (len(seen) > 1 and await tab.run("document.getElementById('stop').disabled")):
                seen.append(await tab.run("document.getElementById('text').textContent"))
            return seen, [await tab.run(f"document.getElementById('{name}').textContent") for name in SHOWN], tab.said

    (problem, *seen), shown, said = asyncio.run(look())
    assert "is not this server's" in problem
    assert shown == [prompt + wanted, str(tokens), "18", "tiny", ""]
    assert any("·" in text and text != seen[0] for text in seen), "it must be seen while it grows"
    assert said == []


def test_sigterm_lets_running_requests_finish_and_takes_no_others(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=served.address) as waiting:
        assert waiting.get("/health").status_code == 200
        before = served.metric("armd_tokens_generated_total")
        running = pool.submit(served.client().completions.create, model="tiny", **{**LONG, "n": 10})
        while served.metric("armd_tokens_generated_total") < before + 20:
            time.sleep(0.01)
        served.process.send_signal(signal.SIGTERM)
        while (health := waiting.get("/health")).status_code == 200:
            time.sleep(0.01)
        assert (health.status_code, health.json()["error"]["code"]) == (503, "shutting_down")
        with pytest.raises(openai.InternalServerError, match="takes no new requests") as raised:
            served.client().completions.create(model="tiny", prompt="to")
        assert raised.value.status_code == 503
        assert not running.done(), "it must still run when others are refused"
        answer = running.result(TIMEOUT_SECONDS)
    assert len(answer.choices) == 10
    assert all(choice.finish_reason in ("length", "stop") for choice in answer.choices)
    assert served.process.wait(20) == 0
