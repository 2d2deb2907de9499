"""`armd train`: one process, or every process of a job."""

from pathlib import Path
from typing import Annotated

from armd_dist.cli.arguments import CONFIG, OVERRIDES


def train(
    path: Annotated[Path, CONFIG],
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
) -> None:
    """Train a model; continue it where its run.dir already holds a checkpoint.

    Example: armd train configs/quickstart.yaml run.dir=runs/mine training.steps=200

    On two processes: torchrun --nproc-per-node 2 -m armd_dist train configs/quickstart.yaml parallel.tensor=2
    """
    import os

    from armd_dist.config import load_run

    # Settings are checked before torch is imported, and before any process waits for another.
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    run = load_run(path, overrides, world_size=world_size)
    if world_size > 1 and os.environ.get("RANK") == "0":
        from rich.console import Console

        from armd_dist.scaling.stages import stage_table

        Console(stderr=True).print(stage_table(run, world_size))

    from armd_dist.training.loop import train as train_run

    train_run(run)
