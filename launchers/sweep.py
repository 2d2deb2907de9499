"""Many runs from one config: a run for each combination of the values that --sweep names."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import submitit

from armd_dist.config import load_run, read_tree
from armd_dist.errors import ConfigError, Problem
from armd_dist.run import Run
from launchers.checkpoints import AtCheckpoints
from launchers.config import ClusterConfig, load_for_sizes
from launchers.folder import settings
from launchers.job import TrainingJob
from launchers.record import Record
from launchers.slurm import Sbatch, executor_of, submit

# A comma inside of brackets belongs to the value.
COMMA = re.compile(r",(?![^\[\]{}]*[\]}])")


def parse(sweeps: list[str]) -> dict[str, list[str]]:
    """`training.seed=0,1` as {path: values}. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    problems = []
    for text in sweeps:
        path, _, listed = text.partition("=")
        values = [value.strip() for value in COMMA.split(listed)]
        if not path or not all(values):
            problems.append(Problem("--sweep", text, "is not of the form a.b=c,d", "write training.seed=0,1,2"))
        elif path in found or path == "run.dir":
            rule = "is named twice" if path in found else "is what tells the runs of a sweep apart"
            problems.append(Problem("--sweep", text, rule, "give each setting once; run.dir as a.b=c is their parent"))
        elif len(set(values)) < len(values):
            problems.append(Problem("--sweep", text, "has a value twice", "give each value once"))
        found[path] = values
    if problems:
        raise ConfigError(problems)
    return found


def load_sweep(path: Path, overrides: list[str], sweeps: list[str], sizes: Sequence[int | None]) -> list[Run]:
    """A run for each combination, in run.dir/NAME-VALUE_NAME-VALUE. Raises ConfigError with all problems, each once."""
    values, runs, problems = parse(sweeps), list[Run](), dict[str, Problem]()
    folders = set[str]()
    settings_of_run = read_tree(path, overrides).get("run")
    parent = settings_of_run.get("dir") if isinstance(settings_of_run, dict) else None
    if not isinstance(parent, str):
        parent = load_run(path, overrides).run.dir  # says what is wrong with it
    for combination in itertools.product(*values.values()):
        changes = dict(zip(values, combination, strict=True))
        names = [f"{each.rpartition('.')[2]}-{value}" for each, value in changes.items()]
        folder = re.sub(r"[^\w.,+-]", "", "_".join(names))
        changed = [*overrides, *(f"{each}={value}" for each, value in changes.items()), f"run.dir={parent}/{folder}"]
        if folder in folders:
            raise ConfigError([Problem("--sweep", " ".join(sweeps), f"has two runs in {folder}", "sweep other values")])
        folders.add(folder)
        try:
            runs.append(load_for_sizes(path, changed, sizes))
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise ConfigError(list(problems.values()))
    return runs


def launch_sweep(
    runs: list[Run], cluster: ClusterConfig, limit: int | None, at: AtCheckpoints | None = None
) -> list[submitit.Job[None]]:
    """Submits the runs as one array, of which at most `limit` run at a time. Raises LaunchError.

    Script, logs and code lie in a folder beside the runs, each run's own folder says where.
    """
    jobs = submit(_executor(runs, cluster, limit, at), [TrainingJob(settings(run)) for run in runs])
    for run, job in zip(runs, jobs, strict=True):
        Record.of(job).write(Path(run.run.dir))
    return jobs


def sweep_script(runs: list[Run], cluster: ClusterConfig, limit: int | None, at: AtCheckpoints | None = None) -> str:
    """The batch script of the array, submitting and writing nothing."""
    executor = _executor(runs, cluster, limit, at)
    executor.parameters["map_count"] = len(runs)
    return executor.script()


def _executor(runs: list[Run], cluster: ClusterConfig, limit: int | None, at: AtCheckpoints | None) -> Sbatch:
    executor = executor_of(Path(runs[0].run.dir).parent, runs, cluster, at)
    executor.update_parameters(array_parallelism=limit or len(runs))
    return executor
