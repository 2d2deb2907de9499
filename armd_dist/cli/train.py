"""`armd train`: one process, or every process of a job."""

import os
from pathlib import Path
from typing import Annotated

from armd_dist.cli.arguments import CONFIG, OVERRIDES

# What torchrun, a cluster's launcher or a user tells each process of a job.
PLACE = {
    "RANK": "the number of this process, from 0",
    "WORLD_SIZE": "the number of all processes",
    "MASTER_ADDR": "the machine of the process with RANK=0",
    "MASTER_PORT": "a free port of that machine",
}


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
    world_size = _world_size()
    run = load_run(path, overrides, world_size=world_size)
    print_stages(run, world_size)

    from armd_dist.training.loop import train as train_run

    train_run(run)


def _world_size() -> int:
    """Processes of this job, 1 where nobody says. Raises ConfigError: one that was told half of its place would train
    alone, or wait for others that never come."""
    from armd_dist.errors import ConfigError, Problem

    told = {name: os.environ[name] for name in PLACE if os.environ.get(name)}
    if "RANK" not in told and told.get("WORLD_SIZE", "1") == "1":
        return 1
    problems = []
    for name, meaning in PLACE.items():
        if name not in told:
            others = ", ".join(f"{name}={value}" for name, value in told.items())
            problems.append(
                Problem(name, "", f"is not set, but {others}", f"set it to {meaning}, or start with torchrun")
            )
        elif name != "MASTER_ADDR" and not told[name].isdecimal():
            problems.append(Problem(name, told[name], "is not a whole number", f"set it to {meaning}"))
    if not problems and int(told["RANK"]) >= int(told["WORLD_SIZE"]):
        rule = f"is not below WORLD_SIZE={told['WORLD_SIZE']}"
        problems.append(Problem("RANK", told["RANK"], rule, f"set it to {PLACE['RANK']}"))
    if problems:
        raise ConfigError(problems)
    return int(told["WORLD_SIZE"])
