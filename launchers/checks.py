"""Everything that can be said against a job on the login node, said at once and before it waits in the queue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armd_dist.errors import ConfigError, Problem
from armd_dist.run import Run
from armd_dist.scaling.plan import Plan
from launchers.checkpoints import AtCheckpoints
from launchers.clusters import cluster_file
from launchers.config import ClusterConfig, load_cluster, load_for_sizes
from launchers.site import site_problems
from launchers.sweep import load_sweep
from launchers.verdict import fit_problems, plan_of


@dataclass(frozen=True)
class Job:
    """What would be submitted. runs: several of a sweep. plan: of the run that needs most; None for a CPU job.

    at: commands for checkpoints, if there are any.
    """

    runs: list[Run]
    cluster: ClusterConfig
    plan: Plan | None
    at: AtCheckpoints | None = None


def load_job(
    path: Path,
    overrides: list[str],
    cluster_name: str | None,
    flags: dict[str, Any],
    sweeps: list[str] | None = None,
    force: bool = False,
    found: Sequence[Problem] = (),
    at: AtCheckpoints | None = None,
) -> Job:
    """The runs and the cluster's part, checked alone, together, against this cluster's Slurm and the GPUs' memory.

    cluster_name: see `cluster_file`. sweeps: see `load_sweep`. force: a plan that cannot fit is no problem. found: what
    is known to be wrong already. Raises ConfigError with all problems.
    """
    cluster, runs, plans, problems = None, list[Run](), list[Plan](), list(found)
    try:
        cluster = load_cluster(None if cluster_name is None else cluster_file(cluster_name), flags)
        problems += site_problems(cluster)
        if sweeps and cluster.min_nodes is not None:
            given = f"{cluster.min_nodes}-{cluster.nodes}"
            problems.append(
                Problem("cluster.nodes", given, "is a range, and the runs of a sweep take none", "give one number")
            )
    except ConfigError as error:
        problems += error.problems
    sizes = cluster.world_sizes if cluster else [None]
    try:
        runs = load_sweep(path, overrides, sweeps, sizes) if sweeps else [load_for_sizes(path, overrides, sizes)]
    except ConfigError as error:
        problems += error.problems
    problems += at.problems(runs) if at else []
    if cluster is not None and cluster.gpus_per_node:
        plans = sorted((plan_of(run, cluster) for run in runs), key=lambda plan: -plan.memory.total)
        problems += [] if force or not plans else fit_problems(plans[0], cluster)
    if problems or cluster is None:
        raise ConfigError(problems)
    return Job(runs, cluster, plans[0] if plans else None, at)
