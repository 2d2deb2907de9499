"""Decoding speed: S strided streams against one, against passes without a cache, and against GPT-2 of transformers.

Example, about two minutes on a CPU:

    python benchmarks/decode.py --out decode.json

Untrained networks of one size: speed does not depend on what the weights are. All ways are greedy and take turns in
one process. Before any timing the cached tokens must equal those of full passes, and GPT-2's two ways must agree.

S = 1 ... 8: our decoder, ends of text looked for. no cache: one full pass over the text so far for each token.
GPT-2, generate(): GPT2LMHeadModel of as many layers and heads, as wide, by its own generate() with its KV cache. GPT-2,
loop: the same by a bare loop of forward passes and argmax, which looks for no end. The ideal is one pass of equal cost
for every block: N / (S + M - 1) with M = ceil(N / S).
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from decoders import STREAMS, Contest, Run, Size
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import report, run_command, setting

TOLERANCE = 1e-3  # nats, in fp32
CLOCK_HELP = "cpu: time that this process had, for one thread on a machine that others share."
PRESETS = {
    # Weights of 206 MB, more than a CPU's caches hold.
    "cpu": Size(768, 6, 12, 8192, 64, ((1, 0), (1, 128), (16, 0)), "cpu", torch.float32, rounds=5),
    # 127M parameters, as GPT-2 small.
    "gpu": Size(768, 12, 12, 50304, 512, ((1, 0), (1, 512), (16, 0), (64, 0)), "cuda", torch.bfloat16, rounds=7),
}


def prompts_of(size: Size, batch: int, prompt: int) -> Tensor:
    return torch.randint(2, size.vocab, (batch, prompt), generator=torch.Generator().manual_seed(batch))


def check(contest: Contest) -> None:
    """All ways say what they must, in fp32: two texts with a prompt, and one without."""
    for batch, prompt in ((2, 5), (1, 0)):
        prompts = prompts_of(contest.size, batch, prompt)
        for streams in STREAMS:
            cached, full = contest.decode(prompts, streams), contest.without_cache(prompts, streams)
            assert torch.equal(cached.tokens, full.tokens), f"S = {streams}: the cache changes tokens"
            assert cached.nats is not None
            assert full.nats is not None
            apart = (cached.nats - full.nats).abs().max().item()
            assert apart < TOLERANCE, f"S = {streams}: the cache changes a token's nats by {apart}"
        assert torch.equal(contest.generate(prompts).tokens, contest.loop(prompts).tokens), "GPT-2 disagrees"


def measure(contest: Contest, batch: int, prompt: int) -> list[dict[str, Any]]:
    """A line for each way, medians over the rounds: seconds, tokens a second, and ratios of the same round."""
    prompts, ways = prompts_of(contest.size, batch, prompt), contest.ways((batch, prompt))
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for number in range(contest.size.rounds + 1):
        for name, way in ways.items():
            run = way(prompts)
            if number:  # the first round warms up
                runs[name].append(run)
    count, one = contest.size.new_tokens, runs["S = 1"]
    lines = []
    for name, mine in runs.items():
        ratio = statistics.median(base.last / run.last for base, run in zip(one, mine, strict=True))
        last = statistics.median(run.last for run in mine)
        line = {"batch": batch, "prompt": prompt, "way": name, "tokens_per_second": batch * count / last}
        line |= {"ratio": ratio, "first_s": statistics.median(run.first for run in mine), "last_s": last}
        if name.startswith("S = "):
            streams = int(name.removeprefix("S = "))
            line["of_ideal"] = ratio / (count / (streams - (-count // streams) - 1))
        lines.append(line)
    return lines


def show(lines: list[dict[str, Any]], console: Console) -> None:
    columns = ("batch", "prompt", "way", "tokens/s", "/ S = 1", "of the ideal", "first token, ms", "last token, ms")
    table = Table(*columns)
    for line in lines:
        ideal = f"{line['of_ideal']:.0%}" if "of_ideal" in line else ""
        figures = (f"{line['tokens_per_second']:,.0f}", f"{line['ratio']:.2f}", ideal)
        ends = (f"{1000 * line['first_s']:.0f}", f"{1000 * line['last_s']:,.0f}")
        table.add_row(str(line["batch"]), str(line["prompt"]), line["way"], *figures, *ends)
    console.print(table)


def main(
    preset: Annotated[Literal["cpu", "gpu"], typer.Option(help="cpu: fp32; gpu: 127M parameters in bf16.")] = "cpu",
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of each way; the median counts.")] = None,
    new_tokens: Annotated[int | None, typer.Option(min=8, help="Tokens to decode behind each prompt.")] = None,
    clock: Annotated[Literal["wall", "cpu"], typer.Option(help=CLOCK_HELP)] = "wall",
    threads: Annotated[int, typer.Option(min=1, help="Of a CPU.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    size = PRESETS[preset]
    size = replace(size, rounds=rounds or size.rounds, new_tokens=new_tokens or size.new_tokens)
    torch.set_num_threads(threads)
    contest = Contest(size, time.process_time if clock == "cpu" else time.perf_counter)
    check(contest)
    if size.dtype != torch.float32:
        for network in contest.networks:
            network.to(size.dtype)
    lines = [line for case in size.cases for line in measure(contest, *case)]
    counts = [sum(weight.numel() for weight in network.parameters()) for network in contest.networks]
    chosen = {"hidden": size.hidden, "layers": size.layers, "vocab": size.vocab, "new_tokens": size.new_tokens}
    chosen |= {
        "dtype": str(size.dtype).removeprefix("torch."),
        "rounds": size.rounds,
        "clock": clock,
        "parameters": "{:,} (GPT-2: {:,})".format(*counts),
    }
    report(setting(torch.device(size.device), **chosen), lines, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
