"""`armd generate`: text from a checkpoint or an export."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from armd_dist.cli.arguments import DEVICE, EMA, MODEL
from armd_dist.cli.place import own_world_size

if TYPE_CHECKING:
    from rich.console import Console

    from armd_dist.generation.generate import Generator, Underway
    from armd_dist.generation.requests import Ordering, Request
    from armd_dist.generation.sampling import Sampling
    from data_pipeline.tokenizer import Tokenizer

LOOK_S = 0.08  # between two pictures of a text that is being generated
OrderChoice = Literal["left_to_right", "strided", "random", "block", "learned"]
ORDER_HELP = (
    "Of placing tokens: --streams strided ones, one by one, one by one at random, --block-size at a time, or as a "
    "network with model.learned_order chooses."
)
BLOCK_HELP = "With --order block: neighbours at a time; with learned: the places to come first, so many at a time."
STEPS_HELP = "With --order learned: passes in all, each as many places as fall to it. Default: one place a pass."
MIN_P_HELP = "Sample among tokens of at least this share of the likeliest one's mass."
SEED_HELP = "Of the first text; the next takes seed + 1. Equal seeds give equal text on one kind of device."
PENALTY_HELP = "Above 1 tokens that stand in the text already become less likely; 1 changes nothing."
TENSOR_HELP = "Processes that share a checkpoint's network; start as many with torchrun."
PROMPTS_HELP = (
    'File of requests, a line each: {"prompt": "..."} or {"infill": "... <hole:8> ..."}, perhaps with "seed".'
)


def generate(
    model: Annotated[Path, MODEL],
    prompt: Annotated[list[str] | None, typer.Option(help="Text to continue; repeatable. Default: no prompt.")] = None,
    infill: Annotated[list[str] | None, typer.Option(help="Text with holes: 'To <hole:8> be'; repeatable.")] = None,
    prompts: Annotated[Path | None, typer.Option(help=PROMPTS_HELP)] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --prompts: the answers' file. The same command resumes.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="With --prompts: texts decoded together.")] = 16,
    order: Annotated[OrderChoice, typer.Option(help=ORDER_HELP)] = "strided",
    streams: Annotated[int, typer.Option(min=1, help="Strided streams S: S tokens at a time after the heads.")] = 1,
    block_size: Annotated[int | None, typer.Option(min=1, help=BLOCK_HELP)] = None,
    steps: Annotated[int | None, typer.Option(min=1, help=STEPS_HELP)] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Behind a prompt, where the text does not end before.")
    ] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample among the likeliest tokens of this total mass.")] = None,
    min_p: Annotated[float | None, typer.Option(help=MIN_P_HELP)] = None,
    repetition_penalty: Annotated[float, typer.Option(help=PENALTY_HELP)] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help=SEED_HELP)] = 0,
    ema: Annotated[bool, EMA] = False,
    device: Annotated[str | None, DEVICE] = None,
    tensor_parallel: Annotated[int, typer.Option(min=1, help=TENSOR_HELP)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One object a line: text, tokens, logprobs, passes.")] = False,
) -> None:
    """Generate text in strided parallel streams or in another order, behind a prompt or into the holes of a text.

    Example: armd generate runs/quickstart --prompt "The value of" --streams 4 --max-new-tokens 64

    On two processes: torchrun --nproc-per-node 2 -m armd_dist generate runs/quickstart --tensor-parallel 2
    """
    from armd_dist.generation.requests import Request, parse_infill

    _check_sources(prompt, infill, prompts, out)
    ordering, sampling = _read_settings(
        (order, streams, block_size, steps), (temperature, top_k, top_p, min_p, repetition_penalty)
    )
    asked = [(text, Request((text, max_new_tokens))) for text in prompt or ([] if infill else [""])]
    asked += [(text, Request(parse_infill(text), infill=True)) for text in infill or []]
    with _opened(model, ordering, ema, device, tensor_parallel) as (network, tokenizer):
        if prompts is not None and out is not None:
            settings = {"max_new_tokens": max_new_tokens, "seed": seed, "ema": ema}
            _answer_file(network, tokenizer, model, prompts, out, ordering, sampling, batch_size, **settings)
            return
        for number, (text, request) in enumerate(asked):
            _answer(network, tokenizer, text, replace(request, seed=seed + number), ordering, sampling, as_json)


@contextmanager
def _opened(
    model: Path, ordering: "Ordering", ema: bool, device: str | None, tensor: int
) -> "Iterator[tuple[Generator, Tokenizer]]":
    """The network, or this process' part of it. Raises GenerationError where the job has more processes, or fewer."""
    from armd_dist.errors import GenerationError
    from armd_dist.export.open import device_of, open_across, open_generator, settle

    if (processes := own_world_size()) != tensor:
        start = f"with torchrun --nproc-per-node {tensor} -m armd_dist generate" if tensor > 1 else "without torchrun"
        raise GenerationError(f"--tensor-parallel {tensor}: this job has {processes} processes; start it {start}")
    learned = ordering.name == "learned"
    if tensor == 1:
        network, tokenizer = open_generator(model, learned, ema)
        settle(network, device_of(device))
        yield network, tokenizer
        return
    if device is not None:
        raise GenerationError(f"--device {device}: with --tensor-parallel each process takes its own; leave it out")
    with open_across(model, tensor, learned, ema) as opened:
        yield opened


def _leads() -> bool:
    """Whether this process speaks for all of the job."""
    return os.environ.get("RANK", "0") == "0"


def _read_settings(order: tuple[Any, ...], drawing: tuple[Any, ...]) -> "tuple[Ordering, Sampling]":
    """Of the options in their order. Raises GenerationError with an option's name."""
    from armd_dist.errors import GenerationError
    from armd_dist.generation.requests import Ordering
    from armd_dist.generation.sampling import Sampling

    try:
        return Ordering(*order), Sampling(*drawing)
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        raise GenerationError(f"--{name.replace('_', '-')}={rest}") from error


def _check_sources(prompt: list[str] | None, infill: list[str] | None, prompts: Path | None, out: Path | None) -> None:
    from armd_dist.errors import GenerationError

    if (prompts is None) != (out is None):
        given, missing = ("--prompts", "--out") if out is None else ("--out", "--prompts")
        raise GenerationError(
            f"{given} {prompts or out}: needs {missing} too; texts are read from the one, answers written to the other"
        )
    if prompts is not None and (prompt or infill):
        raise GenerationError(f"--prompts {prompts}: has the texts; leave out --prompt and --infill")


def _answer(
    network: "Generator",
    tokenizer: "Tokenizer",
    text: str,
    request: "Request",
    ordering: "Ordering",
    sampling: "Sampling",
    as_json: bool,
) -> None:
    """One text; in a terminal its tokens are seen as they come."""
    from rich.console import Console

    from armd_dist.generation.generate import answer, begin, samples_of
    from armd_dist.generation.requests import prepare

    prepared = [prepare(request, tokenizer, ordering, network.config.max_sequence_length)]
    start = time.perf_counter()
    if as_json or not _leads() or not (console := Console()).is_terminal:
        (sample,) = answer(network, tokenizer, prepared, sampling)
    else:
        watch(decoding := begin(network, tokenizer, prepared, sampling), tokenizer, console)
        (sample,) = samples_of(decoding, tokenizer, prepared)
    seconds = time.perf_counter() - start
    if not _leads():
        return
    if as_json:
        typer.echo(json.dumps({"infill" if request.infill else "prompt": text, **asdict(sample)}))
        return
    count = len(sample.tokens)
    typer.echo(sample.text if request.infill else text + sample.text)
    typer.secho(f"[{count} tokens in {sample.passes} passes, {count / seconds:,.0f} tokens/s]", dim=True, err=True)


def _as_the_first_says(number: int) -> int:
    """The first process' number, on all of them."""
    import torch.distributed as dist

    said = [number]
    if dist.is_initialized():
        dist.broadcast_object_list(said, src=0)
    return said[0]


def watch(decoding: "Underway", tokenizer: "Tokenizer", console: "Console") -> None:
    """Runs a decode of one text to its end, and shows what is there of it some times a second."""
    from rich.live import Live
    from rich.text import Text

    from armd_dist.generation.generate import text_so_far

    shown = 0.0
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while decoding.open:
            decoding.step()
            if time.monotonic() - shown > LOOK_S:
                shown = time.monotonic()
                live.update(Text(text_so_far(decoding, tokenizer)), refresh=True)


def _answer_file(
    network: "Generator",
    tokenizer: "Tokenizer",
    model: Path,
    prompts: Path,
    out: Path,
    ordering: "Ordering",
    sampling: "Sampling",
    batch_size: int,
    max_new_tokens: int,
    seed: int,
    ema: bool,
) -> None:
    """Every request of a file, with a bar; the lines that are there already are kept. The first process writes."""
    from rich.console import Console
    from rich.progress import Progress

    from armd_dist.generation.answers import Answers, answer_batches, answer_file, prepare_file, weights_of
    from data_pipeline.files import sha256_of

    prepared = prepare_file(prompts, tokenizer, ordering, network.config.max_sequence_length, max_new_tokens, seed)
    if not _leads():
        for _ in answer_batches(network, tokenizer, prepared, sampling, _as_the_first_says(0), batch_size):
            pass
        return
    settings: dict[str, object] = {"max_new_tokens": max_new_tokens, "seed": seed, "ema": ema}
    settings |= {"prompts_sha256": sha256_of(prompts), "weights_sha256": weights_of(model)}
    settings |= {"order": ordering.name, "streams": ordering.streams, "block_size": ordering.block_size}
    settings |= {"steps": ordering.steps}
    settings |= {**asdict(sampling), "device": next(network.parameters()).device.type}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("generating", total=len(prepared))
        answers = answer_file(network, tokenizer, prepared, sampling, Answers(out, settings), batch_size)
        progress.update(task, completed=_as_the_first_says(next(answers)))
        for done in answers:
            progress.update(task, completed=done)
    typer.echo(f"{out}: {len(prepared)} answers")
