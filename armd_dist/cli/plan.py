"""`armd plan`: what a run needs, before any GPU time is spent."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from armd_dist.cli.arguments import CONFIG, OVERRIDES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from armd_dist.parallel.config import Recompute
    from armd_dist.run import Run
    from armd_dist.scaling.hardware import GPU
    from armd_dist.scaling.plan import Plan

SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def plan(
    path: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    gpus: Annotated[int, typer.Option(min=1, help="Processes, each with a GPU.")] = 1,
    gpu: Annotated[
        Literal["h200", "h100", "a100"], typer.Option(help="Kind of GPU (SXM; the A100 with 80 GB).")
    ] = "h100",
    tokens: Annotated[str | None, typer.Option(help="Tokens to train on, as 100B; else the run's own steps.")] = None,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the peak FLOP/s: an assumption.")] = 0.4,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers, in bytes and seconds, for scripts.")
    ] = False,
) -> None:
    """Say what a run needs: memory by part, communication, time. Nothing is built or started.

    Memory is by formula, held against measurements on CPU. A run that does not fit is marked so, with what would fit;
    the exit code is 0 either way.

    Example: armd plan configs/armd_7b.yaml --gpus 64 --gpu h100 --tokens 100B
    """
    from armd_dist.config import load_run
    from armd_dist.scaling.hardware import GPUS
    from armd_dist.scaling.plan import make_plan

    wanted = None if tokens is None else _count(tokens)
    run = load_run(path, overrides, world_size=gpus)
    made = make_plan(run, gpus, GPUS[gpu], wanted, mfu)
    if as_json:
        from dataclasses import asdict

        shown = asdict(made)
        shown["memory"] |= {"state": made.memory.state, "total": made.memory.total}
        typer.echo(json.dumps({"gpu": GPUS[gpu].name, "fits": made.fits, **shown}, indent=2))
        return
    from rich.console import Console

    _show(Console(), made, run, GPUS[gpu])


def _count(text: str) -> float:
    """100B as a number."""
    number, factor = (text[:-1], SUFFIXES[text[-1].upper()]) if text[-1:].upper() in SUFFIXES else (text, 1.0)
    try:
        count = float(number) * factor
    except ValueError:
        count = 0.0
    if not 0 < count < float("inf"):
        raise typer.BadParameter(f"--tokens={text}: is no number of tokens; write 100B or 1e11")
    return count


def _show(console: "Console", made: "Plan", run: "Run", gpu: "GPU") -> None:
    parallel = run.parallel
    virtual = f" of {parallel.virtual_pipeline} stages each" if parallel.virtual_pipeline > 1 else ""
    pipeline = f" x pipeline {parallel.pipeline}{virtual}" if parallel.pipeline > 1 else ""
    most = "at most " if parallel.pipeline > 1 else ""
    console.print(
        f"{made.parameters:,} parameters, {made.parameters_per_process:,} {most}on each process with its padding\n"
        f"{made.gpus} x {gpu.name}: tensor {parallel.tensor} x data {made.data_size}{pipeline}, "
        f"ZeRO {parallel.zero_stage}, recompute {_recompute(parallel.recompute)}, "
        f"sequence parallel {'on' if parallel.sequence else 'off'}, "
        f"{run.training.precision}\n",
        highlight=False,
    )
    if parallel.pipeline > 1:
        from armd_dist.scaling.stages import stage_table

        console.print(stage_table(run, made.gpus))
    console.print(_memory(made, gpu))
    console.print(_layers(made))
    console.print(_work(made))
    if made.leaves_node:
        console.print(f"parallel.tensor={parallel.tensor} leaves the node: its all-reduces would run over the network.")
    if made.fits:
        console.print("It fits.", highlight=False)
        return
    console.print("[bold]IT DOES NOT FIT.[/bold]", highlight=False)
    for changes in made.proposals:
        console.print("  would fit: " + " ".join(f"{path}={value}" for path, value in changes.items()), highlight=False)
    if not made.proposals:
        tried = "smaller micro-batches, recomputing, higher ZeRO stages, tensor parallelism in a node, pipelines"
        console.print(f"  Nothing tried would fit on {made.gpus} GPUs: {tried}.", highlight=False)


def _table(title: str, *columns: str) -> "Table":
    from armd_dist.tables import plain_table

    table = plain_table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _memory(made: "Plan", gpu: "GPU") -> "Table":
    memory, title = made.memory, "Memory of a process" + (" of the largest stage" if len(made.stages) > 1 else "")
    table, kept = _table(title, "part", "GB"), "activations of a micro-batch"
    if memory.micro_batches != 1:
        kept = f"activations of {memory.micro_batches:.3g} micro-batches at once"
    rows = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "fp32 master weights": memory.master_weights,
        "Adam moments": memory.adam_moments,
        "DeepSpeed's buffers": memory.buffers,
        **({"average of the weights": memory.average} if memory.average else {}),
        kept: memory.activations,
        "logits and their gradient": memory.logits,
        "or gradients of a layer's backward": memory.work,
        "or, while stepping, work of the step": memory.step_work,
    }
    for name, size in rows.items():
        table.add_row(name, _gb(size))
    mark = "" if made.fits else "  <- more than fits"
    table.add_row("[bold]the most at once[/bold]", f"[bold]{_gb(memory.total)}[/bold]{mark}")
    table.add_row(f"usable of {gpu.memory / 1e9:.0f} GB (90 %)", _gb(made.usable))
    if memory.host:
        table.add_row("host memory, for the optimizer", _gb(memory.host))
    return table


def _layers(made: "Plan") -> "Table":
    """Neighbouring layers of a kind in one row."""
    import itertools

    from armd_dist.scaling.memory import kept_under

    memory = made.memory
    table = _table("Activations of a micro-batch", "layers", "recompute none", "selective", "full")
    table.add_row("embedding" if memory.layers[0].number == 0 else "angles", *[_gb(memory.embedding)] * 3)
    places_of_stages = enumerate(memory.layers)
    for (kind, _), group in itertools.groupby(places_of_stages, lambda each: (each[1].kind, each[1].number - each[0])):
        alike = [layer for _, layer in group]
        first, last = alike[0].number + 1, alike[-1].number + 1
        places = f"{first} to {last}" if last > first else f"{first}"
        table.add_row(f"{places}: {kind}", *map(_gb, (alike[0].kept, alike[0].selective, alike[0].boundary)))
    if memory.head:
        table.add_row("head, logits apart", *[_gb(memory.head)] * 3)
    ends = memory.embedding + memory.head
    none, selective, full = [sum(kept_under(memory.layers, each)) + ends for each in ("none", "selective", "full")]
    table.add_row("all; what is computed again, of one layer", _gb(none), _gb(selective), _gb(full))
    return table


def _work(made: "Plan") -> "Table":
    sent, table = made.communication, _table("Work", "of", "")
    table.add_row("FLOPs for a token, forward and backward", f"{made.flops_per_token:.3g}")
    table.add_row("a step", f"{made.samples_per_step:,} samples, {made.tokens_per_step:,} tokens")
    table.add_row("micro-batches of a process in a step", f"{made.accumulation_steps:,}")
    table.add_row("sent in a step: gradients over data parallelism", f"{_gb(sent.gradients)} GB")
    table.add_row("sent in a step: weights gathered by ZeRO", f"{_gb(sent.weights)} GB")
    table.add_row("sent in a step: hidden states over tensor parallelism", f"{_gb(sent.hidden_states)} GB")
    both = f"{sent.data_seconds:.3g} + {sent.tensor_seconds:.3g}"
    where = "data + tensor"
    if len(made.stages) > 1:
        both, where = f"{both} + {sent.pipeline_seconds:.3g}", "data + tensor + pipeline"
        waiting = made.waiting
        table.add_row("sent in a step: to the stages above and below", f"{_gb(sent.between_stages)} GB")
        table.add_row("pipeline bubble, of the ideal time", f"{waiting.bubble:.1%}")
        table.add_row("dearest stage over the mean, cut by cost", f"{waiting.imbalance:.3f}")
        table.add_row("the same if stages had equally many layers", f"{waiting.equal_imbalance:.3f}")
    table.add_row(f"seconds of a step at {made.mfu:.0%} MFU (an assumption)", f"{made.step_seconds:.3g}")
    table.add_row(f"seconds to send that at full bandwidth, {where}", both)
    table.add_row(f"days for {made.tokens:.3g} tokens at that MFU", f"{made.days:.3g}")
    return table


def _recompute(chosen: "Recompute | list[Recompute]") -> str:
    return chosen if isinstance(chosen, str) else ", ".join(chosen)


def _gb(size: float) -> str:
    """10^9 bytes, as data sheets count them."""
    return f"{size / 1e9:,.2f}"
