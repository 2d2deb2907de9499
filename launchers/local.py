"""A job on this machine: the same work in the same processes, without a cluster."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import submitit

from armd_dist.run import Run
from launchers.environment import outside_any_job
from launchers.errors import LaunchError
from launchers.folder import fresh_folder, settings
from launchers.job import TrainingJob
from launchers.record import Record

# The local executor ends every job that runs longer than it was told; nobody limits a job on their own machine.
NO_LIMIT_MINUTES = 60 * 24 * 365


def launch_local(run: Run, processes: int) -> submitit.Job[None]:
    """Starts `processes` of `run` and returns at once; they outlive this process.

    A fresh folder in run.dir/launch gets the logs. Raises LaunchError where GPUs are too few.
    """
    gpus = _gpus(processes)
    executor = submitit.LocalExecutor(folder=fresh_folder(Path(run.run.dir)))
    executor.update_parameters(
        nodes=1,
        tasks_per_node=processes,
        timeout_min=NO_LIMIT_MINUTES,
        gpus_per_node=len(gpus),
        visible_gpus=gpus,
    )
    with outside_any_job(), _on_its_own(executor.folder / "controller.log"):
        job = executor.submit(TrainingJob(settings(run)))
    Record.of(job).write(Path(run.run.dir))
    return job


def debug_local(run: Run) -> None:
    """Trains in this very process, and opens pdb where an error comes up. Raises what training raises."""
    executor = submitit.DebugExecutor(folder=fresh_folder(Path(run.run.dir)))
    with outside_any_job():
        executor.submit(TrainingJob(settings(run))).results()


def _gpus(processes: int) -> tuple[int, ...]:
    """The GPUs that the processes get, one each; none where this machine has none."""
    import torch

    present = torch.cuda.device_count()
    if present == 0:
        return ()
    if processes > present:
        raise LaunchError(
            f"--processes {processes}: only {present} GPU(s) are visible, and each process needs its own; "
            f"use at most {present}, or hide them for a CPU job: CUDA_VISIBLE_DEVICES= armd launch local ..."
        )
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(present)))).split(",")
    if not all(name.strip().isdigit() for name in names):
        raise LaunchError(f"CUDA_VISIBLE_DEVICES={','.join(names)}: give the numbers of the GPUs, as in 0,1")
    return tuple(int(name) for name in names[:processes])


@contextmanager
def _on_its_own(log: Path) -> Iterator[None]:
    """What is started inside writes to `log` and can be interrupted, however this process was started.

    The executor's controller inherits our streams, and would hold a pipe behind us open until the job ends. A shell
    starts background commands with interrupts ignored, which is inherited too, and an interrupt is how it is cancelled.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (target, *kept):
            os.close(descriptor)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
