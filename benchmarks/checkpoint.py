"""How long training pauses for a checkpoint, written beside it and waited for, in turn in one run.

Example, a few minutes on two cores and 7 GB of memory; --folder is on the disk that is to be measured:

    torchrun --nproc-per-node 2 benchmarks/checkpoint.py --folder /tmp/pauses --out pauses.json

A model of --hidden and --layers trains on random tokens with ZeRO 1, in fp32. Each round saves twice: waited for, then
beside training, where steps go on until it is written. A pause is what the step loop loses on the slowest process:
the call that saves, and the checks after the steps that follow.
"""

import os
import statistics
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.table import Table
from turns import report, run_command, setting

from armd_dist.checkpoint.folder import complete_checkpoints, size
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.orders.curriculum import Position
from armd_dist.orders.schemes import left_to_right
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.topology import start, stop
from armd_dist.run import Run
from armd_dist.training.saving import Saver
from armd_dist.training.stopping import agree

LENGTH, VOCAB, MOST_STEPS = 32, 8192, 10_000
MODES = {"waited for": False, "beside training": True}


def make_run(folder: Path, hidden: int, layers: int, asynchronous: bool) -> Run:
    shape = {"hidden_size": hidden, "num_layers": layers, "num_attention_heads": hidden // 64}
    return Run.model_validate(
        {
            "run": {"dir": str(folder)},
            "model": {"vocab_size": VOCAB, "max_sequence_length": LENGTH, **shape},
            "data": {"path": "unused", "sequence_length": LENGTH},
            "training": {
                "steps": MOST_STEPS,
                "global_batch_size": int(os.environ.get("WORLD_SIZE", "1")),
                "precision": "fp32",
            },
            "parallel": {"zero_stage": 1},
            "checkpoint": {"asynchronous": asynchronous, "keep": 1},
        }
    )


class Memory:
    """The most that this process has had in memory since the last question, sampled a hundred times a second."""

    def __init__(self) -> None:
        self.most = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            self.most = max(self.most, resident())
            time.sleep(0.01)

    def since(self) -> int:
        most, self.most = self.most, resident()
        return most


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Training:
    """Steps of an engine, and saves between them, timed."""

    def __init__(self, folder: Path, hidden: int, layers: int) -> None:
        self.runs = {mode: make_run(folder, hidden, layers, flag) for mode, flag in MODES.items()}
        run = self.runs["waited for"]
        self.engine = Engine(run, start(run.parallel))
        manifest: Any = SimpleNamespace(hash=lambda: "random tokens", tokenizer_sha256="none")
        self.saver = Saver(self.engine, manifest)
        tokens = torch.randint(VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(0))
        self.batch: list[MicroBatch] = [ordered_batch(tokens, [left_to_right(LENGTH)], 1, 0)]
        self.count = 0

    def step(self) -> tuple[float, float]:
        """Seconds of the step, and of the check behind it."""
        began = time.perf_counter()
        self.engine.train_step(self.batch, 1e-4)
        between = time.perf_counter()
        _, ended = agree(0, self.saver.ended)
        if ended:
            self.saver.land()
        self.count += 1
        return between - began, time.perf_counter() - between

    def save(self, mode: str) -> dict[str, float]:
        """{pause, total: seconds until the checkpoint is there, step: median seconds of the steps meanwhile or before}.

        Of the slowest process. Collective.
        """
        steps = [self.step()[0] for _ in range(3)]
        self.saver.run = self.runs[mode]
        dist.barrier()
        began = time.perf_counter()
        self.saver.save(self.count, self.count, Position("left_to_right", 1, 0))
        pause = time.perf_counter() - began
        if self.saver.flying is not None:
            steps = []
        while self.saver.flying is not None:
            taken, checked = self.step()
            steps.append(taken)
            pause += checked
        total = time.perf_counter() - began
        worst = torch.tensor([pause, total, statistics.median(steps)], dtype=torch.float64)
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        return dict(zip(("pause", "total", "step"), worst.tolist(), strict=True))


def measure(training: Training, rounds: int) -> dict[str, Any]:
    """Median figures of each mode; bytes of the largest process: the most before any save, the most, its share."""
    memory = Memory()
    for _ in range(5):
        training.step()
    before = torch.tensor(memory.since())
    found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
    with training.saver:
        for number in range(rounds + 1):
            for mode, taken in found.items():
                seen = training.save(mode)
                if number:  # in the first round host memory is taken
                    taken.append(seen)
    most = torch.tensor(memory.since())
    share = torch.tensor(sum(buffer.nbytes for buffer in training.saver.buffers.values()))
    for count in (before, most, share):
        dist.all_reduce(count, dist.ReduceOp.MAX)
    medians = {
        mode: {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        for mode, taken in found.items()
    }
    ratio = medians["beside training"]["pause"] / medians["waited for"]["pause"]
    return {"modes": medians, "pause_ratio": ratio, "before": int(before), "most": int(most), "share": int(share)}


def show(found: dict[str, Any], console: Console) -> None:
    table = Table("checkpoint", "the loop's pause, s", "until it is there, s", "a step meanwhile, s", box=None)
    for mode, seen in found["modes"].items():
        table.add_row(mode, f"{seen['pause']:.3f}", f"{seen['total']:.2f}", f"{seen['step']:.3f}")
    console.print(table)
    console.print(f"pause beside training / waited for: {found['pause_ratio']:.1%}")
    sizes = {name: f"{found[name] / 1e6:,.0f} MB" for name in ("before", "most", "share", "checkpoint")}
    console.print(f"most memory of a process: {sizes['before']} before the first save, {sizes['most']} with saves")
    console.print(f"its share of the state: {sizes['share']}; a checkpoint: {sizes['checkpoint']}")


def main(
    folder: Annotated[Path, typer.Option(help="Where to write checkpoints; the last one stays.")],
    hidden: Annotated[int, typer.Option(min=64, help="Model width, in heads of 64.")] = 1024,
    layers: Annotated[int, typer.Option(min=1)] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way; the median counts.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").touch()
    training = Training(folder, hidden, layers)
    try:
        parameters = training.engine.num_parameters()
        found = measure(training, rounds)
    finally:
        stop()
    if training.engine.topology.is_main:
        found["checkpoint"] = size(complete_checkpoints(folder)[-1])
        processes = training.engine.topology.world_size
        facts = setting(torch.device("cpu"), parameters=parameters, processes=processes, rounds=rounds)
        report(facts, found, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
