"""A scaling study on Slurm: its runs as one array, each with its evaluation behind it."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from armd_dist.errors import ConfigError, Problem
from armd_dist.scaling.grid import PlannedRun
from armd_dist.scaling.standing import (
    ask_evaluation,
    divergence,
    eval_command,
    forget_note,
    note,
    run_dir,
    standing_of,
)
from armd_dist.scaling.study import Study
from launchers.cancel import cancel
from launchers.clusters import cluster_file
from launchers.config import ClusterConfig, load_cluster
from launchers.errors import LaunchError
from launchers.followup import launch_after
from launchers.queue import JobState, states_of
from launchers.record import Record, after, newest
from launchers.site import site_problems
from launchers.sweep import launch_sweep

WATCH_S = 15.0


def cluster_of(study: Study, name: str) -> ClusterConfig:
    """What one run asks for. Raises ConfigError with all problems."""
    cluster = load_cluster(cluster_file(name), {})
    problems = site_problems(cluster)
    if cluster.min_nodes is not None:
        given = f"{cluster.min_nodes}-{cluster.nodes}"
        problems.append(Problem("cluster.nodes", given, "is a range, and the runs of an array take none", "give one"))
    elif cluster.world_size != study.hardware.count:
        rule = f"is what each run is planned for, and the cluster's job has {cluster.world_size} processes"
        remedy = "make nodes x gpus_per_node of the --cluster file the same"
        problems.append(Problem("hardware.count", study.hardware.count, rule, remedy))
    if bool(cluster.gpus_per_node) != (study.hardware.gpu is not None):
        rule = f"is planned, and gpus_per_node={cluster.gpus_per_node} of the cluster file is not that"
        problems.append(Problem("hardware.gpu", study.hardware.gpu, rule, "make both of GPUs, or both of CPUs"))
    if problems:
        raise ConfigError(problems)
    return cluster


def submit_study(
    study: Study, planned: Sequence[PlannedRun], cluster: ClusterConfig, limit: int | None, again: bool
) -> list[Record]:
    """Submits what is neither complete nor in the queue; at most `limit` train at a time. Raises LaunchError.

    again: runs that diverged, too. A run that lacks its evaluation alone is submitted whole: its training ends at once.
    """
    said, missing = states_in_queue(planned), list[PlannedRun]()
    for one in planned:
        state = standing_of(study, one).state
        goes = one.name in said and not said[one.name].is_over
        if state != "complete" and not goes and (again or state != "diverged"):
            forget_note(study, one)
            ask_evaluation(study, one)
            missing.append(one)
    if not missing:
        return []
    jobs = launch_sweep([one.run for one in missing], cluster, limit)
    for job, one in zip(jobs, missing, strict=True):
        launch_after(job, run_dir(one), [shlex.join(eval_command(study, one, "{run}"))], cluster)
    return [newest(run_dir(one)) for one in missing]


def states_in_queue(planned: Sequence[PlannedRun]) -> dict[str, JobState]:
    """By name, of runs that Slurm was given: the first job of training and evaluation that is not over, or the one that
    went wrong, or the evaluation."""
    records = {one.name: _records(run_dir(one)) for one in planned}
    states = states_of([record for each in records.values() for record in each])
    found = {}
    for name, mine in records.items():
        told = [states[record] for record in mine]
        if told:
            found[name] = next((state for state in told if state.name != "finished"), told[-1])
    return found


def wait_for(study: Study, planned: Sequence[PlannedRun], say: Callable[[str], None]) -> None:
    """Until no job of the study is left; ends those that diverge."""
    while True:
        states = states_in_queue(planned)
        live = [one for one in planned if one.name in states and not states[one.name].is_over]
        for one in live:
            reason = divergence(one, study.diverged_factor)
            if reason is not None and standing_of(study, one).state != "complete":
                for record, state in states_of(_records(run_dir(one))).items():
                    if not state.is_over:
                        cancel(record)
                note(study, one, "diverged", reason)
                say(f"{one.name}: diverged: {reason}")
        if not live:
            return
        time.sleep(WATCH_S)


def _records(folder: Path) -> list[Record]:
    """The newest job of a run, and its evaluation's."""
    try:
        job = newest(folder)
    except LaunchError:
        return []
    return [job, *after(folder, job)]
