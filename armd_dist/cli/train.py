"""`armd train`: one process, or every process of a job."""

from pathlib import Path
from typing import Annotated

from armd_dist.cli.arguments import CONFIG, OVERRIDES
from armd_dist.cli.place import own_world_size


def train(
    path: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
) -> None:
    """Train a model; continue it where its run.dir already holds a checkpoint.

    Exit codes: 0 done, 1 an unforeseen error, 2 an error of yours, 3 another process of the job died or hangs,
    75 stopped by SIGTERM, SIGUSR1, SIGUSR2 or Ctrl-C after a step, with a checkpoint: the same command continues.

    Example: armd train configs/quickstart.yaml run.dir=runs/mine training.steps=200

    On two processes: torchrun --nproc-per-node 2 -m armd_dist train configs/quickstart.yaml parallel.tensor=2
    """
    from armd_dist.config import load_run
    from armd_dist.scaling.stages import print_stages

    # Settings are checked before torch is imported, and before any process waits for another.
    world_size = own_world_size()
    run = load_run(path, overrides, world_size=world_size)
    print_stages(run, world_size)

    from armd_dist.training.loop import train as train_run

    train_run(run)
