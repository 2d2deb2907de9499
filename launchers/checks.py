"""Everything that can be said against a job on the login node, said at once and before it waits in the queue."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armd_dist.config import load_run
from armd_dist.errors import ConfigError, Problem
from armd_dist.run import Run
from armd_dist.scaling.plan import Plan
from launchers.clusters import cluster_file
from launchers.config import ClusterConfig, load_cluster
from launchers.site import site_problems
from launchers.verdict import fit_problems, plan_of


@dataclass(frozen=True)
class Job:
    """What would be submitted. plan: None for a CPU job."""

    run: Run
    cluster: ClusterConfig
    plan: Plan | None


def load_job(
    path: Path, overrides: list[str], cluster_name: str | None, flags: dict[str, Any], force: bool = False
) -> Job:
    """The run and the cluster's part, checked alone, together, against this cluster's Slurm and the GPUs' memory.

    cluster_name: see `cluster_file`. force: a plan that cannot fit is no problem. Raises ConfigError with all
    problems.
    """
    cluster, run, plan, problems = None, None, None, list[Problem]()
    try:
        cluster = load_cluster(None if cluster_name is None else cluster_file(cluster_name), flags)
        problems += site_problems(cluster)
    except ConfigError as error:
        problems += error.problems
    try:
        run = load_run(path, overrides, world_size=cluster.world_size if cluster else None)
    except ConfigError as error:
        problems += error.problems
    if run is not None and cluster is not None:
        plan = plan_of(run, cluster)
        problems += [] if force else fit_problems(plan, cluster)
    if problems or run is None or cluster is None:
        raise ConfigError(problems)
    return Job(run, cluster, plan)
