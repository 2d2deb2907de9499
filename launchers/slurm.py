"""A job on a Slurm cluster."""

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from armd_dist.errors import describe
from armd_dist.run import Run
from launchers.checkpoints import AtCheckpoints
from launchers.config import ClusterConfig
from launchers.environment import outside_any_job
from launchers.errors import LaunchError
from launchers.folder import forget_folder, fresh_folder, settings
from launchers.job import TrainingJob
from launchers.record import Record
from launchers.shared import shared_folder_check
from launchers.snapshot import CODE, take_snapshot
from launchers.walltime import minutes_of

# submitit counts every signal to a job of less than ten minutes as a time-out. What limits us is progress.
ANY_NUMBER = 1_000_000
# In the batch script, whose setup names the runs of all tasks.
RUN_DIR = '"${runs[${SLURM_ARRAY_TASK_ID:-0}]}"'


class Sbatch(submitit.SlurmExecutor):
    """Slurm's executor, also where Slurm is not installed: enough there to see what would be submitted."""

    @classmethod
    def affinity(cls) -> int:
        return 1

    processes = 1

    def _num_tasks(self) -> int:
        """The most that there may be, where the number of nodes is a range."""
        return self.processes

    def script(self) -> str:
        """The text that would be handed to sbatch."""
        return self._make_submission_file_text(self._submitit_command_str, uid="")


def sbatch_script(run: Run, cluster: ClusterConfig, at: AtCheckpoints | None = None) -> str:
    """The batch script of the job, submitting and writing nothing."""
    return executor_of(Path(run.run.dir), [run], cluster, at).script()


def launch_slurm(run: Run, cluster: ClusterConfig, at: AtCheckpoints | None = None) -> submitit.Job[None]:
    """Submits the job and returns at once.

    A fresh folder in run.dir/launch, which must lie where all nodes see it, gets script, logs and the code that runs.
    Raises LaunchError where there is no sbatch, or where it refuses.
    """
    (job,) = submit(executor_of(Path(run.run.dir), [run], cluster, at), [TrainingJob(settings(run))])
    Record.of(job).write(Path(run.run.dir))
    return job


def submit(executor: Sbatch, works: Sequence[Callable[[], None]]) -> list[submitit.Job[None]]:
    """Submits one job, or one array of a task for each of several works, and returns at once. Raises LaunchError."""
    if shutil.which("sbatch") is None:
        raise LaunchError(
            "no sbatch command on this machine: run this on a login node of the cluster, see the script that would be "
            "submitted with --dry-run, or use armd launch local"
        )
    try:
        take_snapshot(executor.folder)
        return queue(executor, works)
    except LaunchError:
        forget_folder(executor.folder)
        raise
    except OSError as error:
        raise LaunchError(f"the job's files cannot be written: {describe(error)}") from error


def queue(executor: Sbatch, works: Sequence[Callable[[], None]]) -> list[submitit.Job[None]]:
    """Hands works to sbatch, whose code lies in the executor's folder. Raises LaunchError where it refuses."""
    try:
        with outside_any_job(), executor.batch():
            jobs = [executor.submit(work) for work in works]
    except (FailedJobError, FailedSubmissionError) as error:
        reasons = [line.removeprefix("sbatch: error: ").strip() for line in str(error).splitlines()]
        raise LaunchError("sbatch refused the job: " + "; ".join(filter(None, reasons))) from error
    return jobs


def executor_of(owner: Path, runs: Sequence[Run], cluster: ClusterConfig, at: AtCheckpoints | None = None) -> Sbatch:
    """What submits a job, or an array of one for each run, into a fresh folder in `owner`; nothing is written yet."""
    executor = executor_in(fresh_folder(owner), cluster)
    folder, run_dirs = executor.folder, shlex.join(str(Path(run.run.dir).absolute()) for run in runs)
    before, behind = at.lines(_python(cluster), folder, RUN_DIR, cluster) if at else ([], [])
    setup = [*executor.parameters["setup"], f"runs=({run_dirs})", *before]
    executor.update_parameters(setup=setup, teardown=_teardown(cluster, folder, behind))
    return executor


def executor_in(folder: Path, cluster: ClusterConfig) -> Sbatch:
    """What submits jobs that run the code in `folder`."""
    executor = Sbatch(folder=folder, max_num_timeout=ANY_NUMBER, python=_python(cluster))
    executor.processes = cluster.world_size
    asked = {name: value for name, value in _parameters(cluster, executor.folder).items() if value is not None}
    executor.update_parameters(**asked)
    # A label for accounting that submitit adds by itself; clusters that enforce such labels would refuse this one.
    executor.parameters["wckey"] = None
    return executor


def _python(cluster: ClusterConfig) -> str:
    # -P: else Python would look into the folder of submission, most often the checkout, before it sees the snapshot.
    return f"{cluster.python or shlex.quote(sys.executable)} -P"


def _parameters(cluster: ClusterConfig, folder: Path) -> dict[str, Any]:
    return {
        "job_name": "armd-" + re.sub(r"[^\w.-]", "_", folder.parents[1].resolve().name),
        **_nodes(cluster),
        "gpus_per_node": cluster.gpus_per_node or None,
        "mem": None if cluster.mem_gb is None else f"{round(cluster.mem_gb * 1024)}M",
        "time": minutes_of(cluster.time),
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "signal_delay_s": cluster.signal_seconds,
        # Where the cluster's default is otherwise, no job could be started again.
        "additional_parameters": {"requeue": True, **cluster.sbatch},
        "setup": [*shared_folder_check(folder, cluster.nodes), *_setup(cluster, folder)],
        "srun_args": _srun_arguments(cluster),
    }


def _nodes(cluster: ClusterConfig) -> dict[str, Any]:
    if cluster.min_nodes is None:
        processes = {"ntasks_per_node": cluster.processes_per_node, "cpus_per_task": cluster.cpus_per_task}
        return {"nodes": cluster.nodes, **processes}
    # Told how many processes a node has, Slurm counts those of the fewest nodes, and gives no more nodes than these
    # need. So it hears of one for each node, with the cores of all; srun learns the truth.
    cores = cluster.processes_per_node * (cluster.cpus_per_task or 1)
    return {"nodes": f"{cluster.min_nodes}-{cluster.nodes}", "cpus_per_task": cores}


def _setup(cluster: ClusterConfig, folder: Path) -> list[str]:
    exports = [f"export {name}={shlex.quote(value)}" for name, value in cluster.environment.items()]
    # A CPU job on a node whose GPUs nobody fences off would find and use another's.
    hide = [] if cluster.gpus_per_node else ["export CUDA_VISIBLE_DEVICES="]
    # After the user's lines: a module may set it too.
    code = f"export PYTHONPATH={shlex.quote(str(folder / CODE))}${{PYTHONPATH:+:$PYTHONPATH}}"
    count = (
        [] if cluster.min_nodes is None else [f"export SLURM_NTASKS=$((SLURM_NNODES * {cluster.processes_per_node}))"]
    )
    return [*cluster.setup, *exports, *hide, code, *count]


def _teardown(cluster: ClusterConfig, folder: Path, behind: list[str]) -> list[str]:
    """A crash is answered here, where no process is left that could die of it, and before all else."""
    ask = f"{_python(cluster)} -m launchers.requeue {shlex.quote(str(folder))} {RUN_DIR} {cluster.max_crashes} $code"
    return ["code=$?", f"[ $code -eq 0 ] || {ask}", *behind, "exit $code"]


def _srun_arguments(cluster: ClusterConfig) -> list[str]:
    # Without the first a dead process leaves the others waiting for it until the time limit.
    arguments = ["--kill-on-bad-exit=1"]
    if cluster.cpus_per_task is not None or cluster.min_nodes is not None:
        # Slurm from 22.05 on does not hand this on from sbatch to srun.
        arguments.append(f"--cpus-per-task={cluster.cpus_per_task or 1}")
    if cluster.min_nodes is not None:
        arguments.append(f"--ntasks-per-node={cluster.processes_per_node}")
    return [*arguments, *cluster.srun]
