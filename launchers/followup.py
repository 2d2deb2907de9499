"""What comes after a run: `armd` commands in small jobs of their own, each once the job before it has ended well."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.core.utils import DelayedSubmission

from launchers.config import ClusterConfig
from launchers.environment import outside_any_job
from launchers.errors import LaunchError
from launchers.record import Record
from launchers.slurm import Sbatch, executor_in, queue
from launchers.walltime import minutes_of


@dataclass(frozen=True)
class CommandJob:
    """Runs `armd ARGUMENTS` in the folder of submission."""

    arguments: list[str]

    def __call__(self) -> None:
        """Raises LaunchError where the command fails; it has said why."""
        with outside_any_job():
            done = subprocess.run([sys.executable, "-P", "-m", "armd_dist", *self.arguments], check=False)
        if done.returncode != 0:
            raise LaunchError(f"armd {shlex.join(self.arguments)} ended with exit code {done.returncode}")

    def checkpoint(self) -> DelayedSubmission:
        """After a preemption: all of it again."""
        return DelayedSubmission(self)


def arguments_of(command: str, **places: object) -> list[str]:
    """`export {run} out` as words, with what `run` is in its place. Raises ValueError over quotes left open."""
    words = shlex.split(command)
    for name, value in places.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    return words


def executor_for(command: str, folder: Path, cluster: ClusterConfig) -> Sbatch:
    """What submits a command as a small job that runs the code in `folder`. cluster: of the training."""
    executor = executor_in(folder, small(cluster))
    executor.update_parameters(job_name=f"{executor.parameters['job_name']}-{command.split()[0]}")
    return executor


def launch_after(
    first: submitit.Job[None], run_dir: Path, commands: Sequence[str], cluster: ClusterConfig
) -> list[Record]:
    """Submits a chain of commands behind the run's job; returns at once.

    They wait under afterok: a job that is requeued keeps its number, and has ended well only once its training is
    done. Slurm cancels what waits for a job that has failed. Raises LaunchError.
    """
    before, records = first.job_id, list[Record]()
    for command in commands:
        executor = executor_for(command, first.paths.folder, cluster)
        executor.update_parameters(dependency=f"afterok:{before}")
        executor.parameters["additional_parameters"]["kill-on-invalid-dep"] = "yes"
        try:
            (job,) = queue(executor, [CommandJob(arguments_of(command, run=run_dir))])
        except LaunchError as error:
            raise LaunchError(
                f"job {before} is submitted, but not what comes after it, {command!r}: {error}"
            ) from error
        records.append(Record.of(job, command))
        records[-1].write(run_dir)
        before = job.job_id
    return records


def small(cluster: ClusterConfig) -> ClusterConfig:
    """One process, with a GPU where the run has some, for `then_time`."""
    minutes = min(minutes_of(cluster.time), minutes_of(cluster.then_time))
    one = {
        "nodes": 1,
        "min_nodes": None,
        "gpus_per_node": min(1, cluster.gpus_per_node),
        "tasks_per_node": None,
        "mem_gb": None if cluster.mem_gb is None else cluster.mem_gb / cluster.processes_per_node,
        "time": cluster.time if minutes == minutes_of(cluster.time) else cluster.then_time,
        "signal_seconds": 60,
    }
    return cluster.model_copy(update=one)
