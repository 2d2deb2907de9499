"""What a training step costs on one GPU: speed, MFU and memory of ARMD beside AR, and beside what the plan says.

Example, on a machine with a GPU:

    python benchmarks/gpu_train.py --shapes 125m,345m,1.3b --gpu h200 --out gpu_train.json

First of all the GPU must compute what a CPU does: loss and every gradient of a small network, in fp32, under orders of
single tokens and of blocks. Then each shape's config trains on random tokens, by training's own engine: AR, ARMD under
orders of single tokens, and ARMD on strided orders, whose attention is FlexAttention's. FLOPs are those of `armd plan`:
both streams are counted, causal attention as the full square. On a CPU it refuses, but for `--trial`, which tries the
script itself on a tiny shape and measures nothing.
"""

import gc
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from turns import report, run_command, setting, wait_for

from armd_dist.config import load_run
from armd_dist.errors import ConfigError, Problem
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import num_parameters, training_flops_per_token
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.orders.curriculum import draw_orders, position_at
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.topology import Topology, joined
from armd_dist.run import Run
from armd_dist.scaling.hardware import GPUS
from armd_dist.scaling.memory import memory_of

CONFIGS = Path(__file__).parents[1] / "configs"
# A config that ships, and changes to it.
SHAPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "125m": ("armd_125m", ()),
    "345m": ("armd_345m", ()),
    "1.3b": ("armd_1b", ("model.num_layers=24", "model.two_stream_layers=12")),
}
TRIAL = (
    "model.vocab_size=300",
    "model.hidden_size=64",
    "model.num_layers=4",
    "model.num_attention_heads=4",
    "model.two_stream_layers=2",
    "model.max_sequence_length=64",
    "data.sequence_length=64",
    "training.precision=fp32",
    "training.micro_batch_size=2",
    "parallel.zero_stage=0",
)
AR = ("model.two_stream_layers=0",)
WORK: dict[str, tuple[str, ...]] = {"ar": AR, "armd": (), "armd, strided": ()}
BOS, TOLERANCE = 1, 1e-4  # of the largest gradient


def make_run(shape: str, work: str, micro_batches: int, micro_batch_size: int | None, trial: bool) -> Run:
    """A config that ships, on one process. Raises ConfigError."""
    name, larger = SHAPES[shape]
    config = CONFIGS / f"{name}.yaml"
    changes = [
        "run.dir=unused",
        *larger,
        "model.hidden_dropout=0",
        "validation.path=null",
        *(TRIAL if trial else ()),
        *WORK[work],
    ]
    if micro_batch_size is not None:
        changes.append(f"training.micro_batch_size={micro_batch_size}")
    size = load_run(config, changes).training.micro_batch_size
    return load_run(config, [*changes, f"training.global_batch_size={size * micro_batches}"], world_size=1)


def batches(run: Run, work: str, step: int) -> list[MicroBatch]:
    """The micro-batches of a step: random tokens under the orders of the curriculum's last phases."""
    training, length, orders = run.training, run.data.sequence_length, run.orders
    assert orders.strided_from is not None, "the configs end with strided orders"
    at = {"ar": 0, "armd": orders.strided_from - 1, "armd, strided": orders.strided_from}[work]
    generator = torch.Generator().manual_seed(step)
    found = []
    for start in range(0, training.global_batch_size, training.micro_batch_size):
        samples = range(
            step * training.global_batch_size + start,
            step * training.global_batch_size + start + training.micro_batch_size,
        )
        tokens = torch.randint(2, run.model.vocab_size, (len(samples), length), generator=generator)
        found.append(
            ordered_batch(
                tokens, draw_orders(orders, position_at(orders, at), length, 0, list(samples)), BOS, samples[0]
            )
        )
    return found


def compare(device: torch.device) -> dict[str, float]:
    """The largest difference of loss and gradients between CPU and device, relative. Raises AssertionError."""
    run = make_run("125m", "armd", 1, 4, trial=True)
    config = ModelConfig.model_validate(run.model.model_dump() | {"hidden_size": 128, "ffn_hidden_size": 512})
    torch.backends.cuda.matmul.allow_tf32 = False
    found: dict[str, float] = {}
    for work in ("armd", "armd, strided"):
        (batch,) = batches(run, work, step=0)
        losses, gradients = [], []
        for where in (torch.device("cpu"), device):
            model = ARMD(config, PlainLayers())
            initialize(model, config, seed=0)
            model.to(where)
            loss = batch.to(where).loss(model).objective
            loss.backward()
            losses.append(loss.item())
            gradients.append(
                {name: each.grad.cpu() for name, each in model.named_parameters() if each.grad is not None}
            )
        found[f"{work}: loss"] = abs(losses[1] / losses[0] - 1)
        largest = max(each.abs().max().item() for each in gradients[0].values())
        apart = max((gradients[1][name] - each).abs().max().item() for name, each in gradients[0].items())
        found[f"{work}: gradients"] = apart / largest
    wrong = {name: value for name, value in found.items() if not value < TOLERANCE}
    assert not wrong, f"{device} computes something else than the CPU: {wrong}"
    return found


def measure(run: Run, work: str, topology: Topology, rounds: int, peak_flops: float | None) -> dict[str, Any]:
    """One kind of training: medians over `rounds` steps, behind as many as the kernels need to be compiled."""
    device, seconds = topology.device, []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    engine = Engine(run, topology)
    for step in range(rounds + 3):
        given = batches(run, work, step)
        wait_for(device)
        began = time.perf_counter()
        engine.train_step(given, 1e-5)
        wait_for(device)
        if step >= 3:
            seconds.append(time.perf_counter() - began)
    tokens = run.training.global_batch_size * run.data.sequence_length
    flops, taken = training_flops_per_token(run.model, run.data.sequence_length), statistics.median(seconds)
    return {
        "parameters": num_parameters(run.model),
        "micro_batch_size": run.training.micro_batch_size,
        "seconds_per_step": taken,
        "tokens_per_second": tokens / taken,
        "flops_per_token": flops,
        "mfu": flops * tokens / taken / peak_flops if peak_flops else None,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "planned_bytes": memory_of(run, 1).total,
    }


def measure_shape(
    shape: str, topology: Topology, options: dict[str, Any], rounds: int, peak: float | None
) -> dict[str, Any]:
    """Each work of a shape, or that it has no room; how much dearer ARMD is than AR, by the clock and by FLOPs."""
    found: dict[str, Any] = {}
    for work in WORK:
        run = make_run(shape, work, **options)
        try:
            found[work] = measure(run, work, topology, rounds, peak)
        except torch.cuda.OutOfMemoryError:
            found[work] = {"error": "out of memory", "planned_bytes": memory_of(run, 1).total}
        gc.collect()
        if topology.device.type == "cuda":
            torch.cuda.empty_cache()
    ar = found["ar"]
    for work in ("armd", "armd, strided"):
        if "error" not in ar and "error" not in (mine := found[work]):
            mine["step_over_ar"] = mine["seconds_per_step"] / ar["seconds_per_step"]
            mine["flops_over_ar"] = mine["flops_per_token"] / ar["flops_per_token"]
    return found


def show(results: dict[str, Any], console: Console) -> None:
    console.print("beside the CPU, relative:", {name: f"{value:.1e}" for name, value in results["correctness"].items()})
    table = Table("shape", "training", "tokens/s", "MFU", "GB, peak", "GB, planned", "step over AR", "FLOPs over AR")
    for shape, works in results["shapes"].items():
        for work, one in works.items():
            planned = f"{one['planned_bytes'] / 1e9:.2f}"
            if "error" in one:
                table.add_row(shape, work, one["error"], "", "", planned, "", "")
                continue
            mfu = "" if one["mfu"] is None else f"{one['mfu']:.1%}"
            peak = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e9:.2f}"
            ratios = [f"{one[name]:.2f}" if name in one else "" for name in ("step_over_ar", "flops_over_ar")]
            table.add_row(shape, work, f"{one['tokens_per_second']:,.0f}", mfu, peak, planned, *ratios)
    console.print(table)


def main(
    shapes: Annotated[str, typer.Option(help="Some of 125m, 345m and 1.3b.")] = "125m,345m,1.3b",
    gpu: Annotated[str | None, typer.Option(help="Kind, whose peak MFU is a share of: h200, h100 or a100.")] = None,
    rounds: Annotated[int, typer.Option(help="Steps that are timed.")] = 10,
    micro_batches: Annotated[int, typer.Option(help="Of a step.")] = 4,
    micro_batch_size: Annotated[int | None, typer.Option(help="Samples; without it the config's.")] = None,
    trial: Annotated[bool, typer.Option("--trial", help="Tiny shapes, on a CPU too: tries the script.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    problems, names = [], shapes.split(",")
    if not (trial or torch.cuda.is_available()):
        problems.append(Problem("CUDA", "none", "there is no GPU, which is what is measured", "take one, or --trial"))
    if unknown := [name for name in names if name not in SHAPES]:
        problems.append(Problem("--shapes", ",".join(unknown), "is not a shape", f"use {', '.join(SHAPES)}"))
    if gpu is not None and gpu not in GPUS:
        problems.append(Problem("--gpu", gpu, "is not a kind whose peak is known", f"use {', '.join(GPUS)}"))
    if problems:
        raise ConfigError(problems)
    options = {"micro_batches": micro_batches, "micro_batch_size": micro_batch_size, "trial": trial}
    peak = None if gpu is None else {name: each.flops for name, each in GPUS.items()}[gpu]  # type: ignore[index]
    with joined(make_run(names[0], "ar", **options).parallel) as topology:
        results: dict[str, Any] = {"correctness": compare(topology.device)}
        results["shapes"] = {name: measure_shape(name, topology, options, rounds, peak) for name in names}
        facts = setting(topology.device, gpu=gpu, micro_batches=micro_batches, rounds=rounds, trial=trial)
    report(facts, results, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
