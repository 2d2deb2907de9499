"""Runs in which numbers are lost and bits flip, one after the other in one process, for test_lost_numbers.py."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from armd_dist.config import load_run
from armd_dist.errors import TrainingError
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run
from armd_dist.training import health, loop

WEIGHT = "two_stream.1.mlp.up.weight"
SAMPLES: set[int] = set()  # that spoil a gradient
SPIKING: set[int] = set()  # that have ten times their loss
LONG = ["training.steps=140", "orders.left_to_right_steps=140", "orders.strided_from=null", "checkpoint.every=20"]


def poison() -> None:
    """From now on a micro-batch that begins with one of SAMPLES has NaN in its gradient of WEIGHT."""
    make, loss_of, current = Engine.__init__, Engine._loss, [0]

    def poisoned(engine: Engine, run: Run, topology: Topology) -> None:
        make(engine, run, topology)
        dict(engine.part.weights())[WEIGHT].register_hook(spoil)

    def spoil(gradient: Tensor) -> Tensor:
        return gradient * (torch.nan if current[0] in SAMPLES else 1.0)

    def noting(engine: Engine, micro_batch: MicroBatch) -> Loss:
        current[0] = micro_batch.first_sample
        loss = loss_of(engine, micro_batch)
        return loss._replace(nll=10 * loss.nll) if current[0] in SPIKING else loss

    Engine.__init__, Engine._loss = poisoned, noting  # type: ignore[method-assign]


def train(config: Path, folder: Path, *overrides: str) -> None:
    """What ends a run is told as the command line tells it."""
    print(f"{folder.name}:", file=sys.stderr)
    os.environ.pop("RANK", None)  # the run before has left it
    try:
        loop.train(load_run(config, [f"run.dir={folder}", *overrides]))
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)


def main(config: Path, out: Path) -> None:
    poison()
    SAMPLES.update({52, 60})  # of steps 7 and 8
    train(config, out / "whole")
    shutil.copytree(out / "whole", out / "resumed")
    for step in (15, 20):
        shutil.rmtree(out / "resumed" / "checkpoints" / f"step-{step:08d}")
    train(config, out / "resumed")
    train(config, out / "limited", "health.max_skipped=1")
    SAMPLES.clear()
    SPIKING.add(135 * 8)  # the first one of step 136
    train(config, out / "rewound", "health.rewind=true", "data.ledger=true", *LONG)
    compared: list[Any] = []

    def differing(*engine: object) -> str | None:
        compared.append(engine)
        return "the bits of a weight differ on rank 1" if len(compared) == 5 else None

    health.differing_replicas = differing
    train(config, out / "flipped", "health.replicas_every=3")  # after steps 1, 3, 5 (a checkpoint's), 6, 9


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
