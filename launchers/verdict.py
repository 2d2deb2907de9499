"""Whether a run fits the GPUs that its job asks for, by formula and before anything is submitted."""

from dataclasses import replace

from armd_dist.errors import Problem
from armd_dist.run import Run
from armd_dist.scaling.hardware import GPUS, USABLE
from armd_dist.scaling.plan import Plan, make_plan
from launchers.config import ClusterConfig

# Only its memory is asked about here; the plan's times are not shown.
ANY = GPUS["h100"]


def plan_of(run: Run, cluster: ClusterConfig) -> Plan:
    """The plan of the run on the fewest GPUs that the job may get, where each holds most."""
    gpu = ANY if cluster.gpu_memory_gb is None else replace(ANY, memory=cluster.gpu_memory_gb * 1e9)
    return make_plan(run, cluster.world_sizes[0], gpu)


def in_words(plan: Plan | None, cluster: ClusterConfig) -> list[str]:
    """The verdict on memory, in lines for a person. plan: None for a CPU job."""
    if plan is None:
        return ["a CPU job: nobody has planned its memory"]
    need = f"{plan.parameters:,} parameters; a GPU holds {_gb(plan.memory.total)} at once"
    if cluster.gpu_memory_gb is None:
        return [f"{need}; whether that fits is not known: give --gpu-memory-gb, or gpu_memory_gb in the cluster file"]
    usable = f"{_gb(plan.usable)} usable of {cluster.gpu_memory_gb:g} GB"
    if plan.fits:
        return [f"{need}, {usable}: it fits"]
    return [f"{need}, {usable}: IT DOES NOT FIT", *(f"would fit: {each}" for each in _proposals(plan))]


def fit_problems(plan: Plan, cluster: ClusterConfig) -> list[Problem]:
    """Of a plan that cannot fit."""
    if cluster.gpu_memory_gb is None or plan.fits:
        return []
    rule = f"a GPU would hold {_gb(plan.memory.total)} at once, and {USABLE:.0%} of its memory are usable"
    would = " or ".join(_proposals(plan))
    remedy = f"would fit: {would}" if would else "nothing tried would fit on so many GPUs: ask for more of them"
    return [Problem("cluster.gpu_memory_gb", f"{cluster.gpu_memory_gb:g}", rule, f"{remedy}; --force submits it so")]


def _proposals(plan: Plan) -> list[str]:
    return [" ".join(f"{path}={value}" for path, value in changes.items()) for changes in plan.proposals]


def _gb(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
