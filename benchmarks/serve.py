"""The server under load: many clients at once against one request at a time, latencies, and whether answers are right.

Example, some minutes on a CPU, with a run or an export of your own:

    python benchmarks/serve.py runs/mine/export --out serve.json

`armd serve` is started as a process of its own and asked by OpenAI's client: requests of mixed length and S at
temperature 0, every second one streamed. First each is asked for alone, one after the other, then all of them again by
many clients. Each answer must equal the one that was given alone; in fp32 two tokens that are equally likely up to
rounding may change places, so that differing answers are counted and shown. Both ways run in the same minutes, on the
same server; what counts is their ratio.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openai
import torch
import typer
from rich.console import Console
from rich.table import Table
from turns import report, run_command, setting

STREAMS = (1, 2, 4, 8)
QUANTILES = (0.5, 0.9, 0.99)
Asked = dict[str, Any]
Answered = dict[str, Any]


def requests_of(count: int, longest: int, seed: int) -> list[Asked]:
    """Prompts of 1 to 24 words that the tokenizer has surely seen, 8 to `longest` new tokens, S in 1, 2, 4 or 8."""
    draw = np.random.default_rng(seed)
    words = ("the", "value", "of", "a", "list", "is", "not", "in", "for", "each", "name", "and", "to", "return")
    return [
        {
            "prompt": " ".join(draw.choice(words, size=draw.integers(1, 25))),
            "max_tokens": int(draw.integers(8, longest + 1)),
            "streams": int(draw.choice(STREAMS)),
            "stream": bool(number % 2),
        }
        for number in range(count)
    ]


@contextmanager
def server(model: Path, slots: int, queue: int) -> Iterator[openai.OpenAI]:
    """`armd serve` at a free port, and a client of it."""
    words = [sys.executable, "-m", "armd_dist", "serve", str(model), "--port", "0"]
    words += ["--slots", str(slots), "--max-queue", str(queue)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=3600)
        finally:
            process.terminate()


def ask(client: openai.OpenAI, model: str, asked: Asked) -> Answered:
    """Text, tokens, seconds until the first text and until the end."""
    body = {**asked, "model": model, "temperature": 0}
    more: dict[str, Any] = {"extra_body": {"streams": body.pop("streams")}}
    began = time.perf_counter()
    if not body.pop("stream"):
        said = client.completions.create(**body, **more)
        assert said.usage is not None
        seconds = time.perf_counter() - began
        return {"text": said.choices[0].text, "tokens": said.usage.completion_tokens, "seconds": seconds, "first": None}
    text, first, tokens = "", None, 0
    for event in client.completions.create(**body, **more, stream=True, stream_options={"include_usage": True}):
        for choice in event.choices:
            text += choice.text
            first = first or time.perf_counter() - began
        tokens = event.usage.completion_tokens if event.usage is not None else tokens
    return {"text": text, "tokens": tokens, "seconds": time.perf_counter() - began, "first": first}


def timed(work: Callable[[Asked], Answered], requests: list[Asked], clients: int) -> tuple[list[Answered], float]:
    """All answers, and the seconds from the first request to the last answer."""
    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(work, requests)), time.perf_counter() - began


def line(name: str, answers: list[Answered], seconds: float) -> dict[str, Any]:
    """One way's figures. Percentiles: of the seconds of a request, and of those to the first text of streamed ones."""
    first = [one["first"] for one in answers if one["first"] is not None]
    return {
        "way": name,
        "requests": len(answers),
        "seconds": seconds,
        "tokens_per_second": sum(one["tokens"] for one in answers) / seconds,
        "latency": [float(np.quantile([one["seconds"] for one in answers], q)) for q in QUANTILES],
        "first_text": [float(np.quantile(first, q)) for q in QUANTILES],
    }


def show(results: dict[str, Any], console: Console) -> None:
    table = Table("way", "requests", "tokens/s", "latency p50 / p90 / p99, s", "first text p50 / p90 / p99, s")
    for row in results["ways"]:
        spread = (" / ".join(f"{value:.2f}" for value in row[name]) for name in ("latency", "first_text"))
        table.add_row(row["way"], str(row["requests"]), f"{row['tokens_per_second']:.0f}", *spread)
    console.print(table)
    console.print(f"together against alone: {results['ratio']:.2f} x; {results['differing']} answers differ")


def main(
    model: Annotated[Path, typer.Argument(help="A run, a checkpoint or an export.")],
    clients: Annotated[int, typer.Option(min=1, help="At the same time.")] = 64,
    count: Annotated[int, typer.Option("--requests", min=1)] = 500,
    longest: Annotated[int, typer.Option(min=8, help="New tokens of a request at most.")] = 64,
    slots: Annotated[int, typer.Option(min=1, help="Of the server.")] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="Write everything as JSON too.")] = None,
) -> None:
    asked = requests_of(count, longest, seed)
    with server(model, slots, queue=clients) as client:
        name = client.models.list().data[0].id

        def work(one: Asked) -> Answered:
            return ask(client, name, one)

        timed(work, asked[: 2 * slots], slots)  # warms up
        single, single_seconds = timed(work, asked, 1)
        together, together_seconds = timed(work, asked, clients)
    ways = [line("one at a time", single, single_seconds), line(f"{clients} clients", together, together_seconds)]
    differing = [n for n in range(count) if single[n]["text"] != together[n]["text"]]
    ratio = ways[1]["tokens_per_second"] / ways[0]["tokens_per_second"]
    results = {
        "ways": ways,
        "ratio": ratio,
        "differing": len(differing),
        "distinct_answers": len({one["text"] for one in single}),
        "differences": [{**asked[n], "alone": single[n]["text"], "together": together[n]["text"]} for n in differing],
        "mean_new_tokens": statistics.mean(one["tokens"] for one in single),
    }
    facts = setting(torch.device("cpu"), clients=clients, slots=slots, model=str(model))
    report(facts, results, show, out)
    if differing:
        raise typer.Exit(1)


if __name__ == "__main__":
    run_command(main, __doc__)
