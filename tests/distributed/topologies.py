"""Hands checkpoints from jobs of some processes to jobs of others, for test_topologies.py.

One process imports the project and forks those of every job: importing takes longer than training. A job loads the
checkpoint of an earlier one, saves at once what it has loaded, trains, and saves.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from layouts import Trainer, make_run
from megatron.core import parallel_state
from ranks import free_port

from armd_dist.checkpoint.compare import compare_tensors
from armd_dist.checkpoint.pieces import stage
from armd_dist.checkpoint.tensors import read_tensors
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.parallel.topology import start, stop

LEG = 10  # steps between checkpoints

Job = tuple[str, dict[str, Any], str | None, int]


def run_job(job: Job, out: Path) -> None:
    """job: (name, settings, source, legs). Trains `legs` times LEG steps and saves after each, as NAME-STEP.

    source: such a checkpoint, from which it goes on, or None.
    """
    name, settings, source, legs = job
    trainer, first, differing = Trainer(settings), 0, []
    if source is not None:
        first = int(source.rpartition("-")[2])
        read_tensors(out / source, trainer.engine.places())
        trainer.engine.go_on_from(first)
        write_tensors(out / f"{name}-again", stage(trainer.engine.state(), {}))
        if dist.get_rank() == 0:
            differing = [one.name for one in compare_tensors(out / source, out / f"{name}-again")]
    curve = []
    for step in range(first, first + legs * LEG, LEG):
        curve += trainer.train(range(step, step + LEG))
        write_tensors(out / f"{name}-{step + LEG}", stage(trainer.engine.state(), {}))
    trainer.close()
    if dist.get_rank() == 0:
        losses = torch.tensor(curve, dtype=torch.float64)[:, 0]
        torch.save({"losses": losses, "first": first, "differing": differing}, out / f"{name}.pt")


def fork(jobs: list[Job], out: Path, rank: int, world: int, port: int) -> int:
    """Starts a process; returns its id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    code = 1
    try:
        start(make_run({}).parallel)
        parallel_state.destroy_model_parallel()
        for job in jobs:
            run_job(job, out)
        stop()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main(relay: list[tuple[int, list[Job]]], out: Path) -> None:
    """relay: (processes, their jobs), one after the other."""
    for world, jobs in relay:
        port = free_port()
        processes = [fork(jobs, out, rank, world, port) for rank in range(world)]
        if any(os.waitpid(process, 0)[1] for process in processes):
            sys.exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
