"""All runs of a study, each with its settings, its cost and a layout that fits, before anything runs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armd_dist.config import check_tree, read_tree, to_yaml
from armd_dist.config_rules import cross_problems
from armd_dist.errors import ConfigError, Problem
from armd_dist.model.cost import num_parameters
from armd_dist.run import Run
from armd_dist.scaling.hardware import GPU, GPUS
from armd_dist.scaling.ladder import flops_per_token, scheduled, sized
from armd_dist.scaling.memory import memory_of
from armd_dist.scaling.plan import changed, layouts, make_plan
from armd_dist.scaling.study import Objective, Study
from data_pipeline.files import write_atomically

FEWEST_STEPS = 10
SUFFIX = {"tokens": "t", "tokens_per_parameter": "x", "flops": "f"}


@dataclass(frozen=True)
class Cell:
    """A place in the grid. budget: in the unit of the study's budgets; held_out: predicted, not fitted."""

    series: str
    objective: Objective
    share: float
    depth: int
    budget: float
    seed: int
    held_out: bool

    def name(self, kind: str) -> str:
        unit = "t" if self.held_out else SUFFIX[kind]
        return f"{self.series}-depth{self.depth}-{self.budget:g}{unit}-seed{self.seed}".replace("+", "")


@dataclass(frozen=True)
class PlannedRun:
    """tokens: that it trains on, whole steps; flops: of all of it; gpu_hours: of all processes together."""

    name: str
    cell: Cell
    run: Run
    parameters: int
    flops_per_token: float
    tokens: int
    layout: dict[str, str | int]
    gpu_hours: float

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.tokens


@dataclass(frozen=True)
class _Size:
    """What all runs of a series and a depth share; the run's schedule is still the base's."""

    run: Run
    parameters: int
    flops_per_token: float
    layout: dict[str, str | int]
    gpu_hours_per_token: float


def plan_study(study: Study) -> list[PlannedRun]:
    """Every run, those held out last in each series. Raises ConfigError with all problems, each once."""
    base = load_base(study)
    sizes, found, problems = dict[tuple[str, int], _Size | None](), list[PlannedRun](), dict[str, Problem]()
    for cell in _cells(study):
        key = cell.series, cell.depth
        try:
            if key not in sizes:
                sizes[key] = None  # for the next budget, should this one be refused
                sizes[key] = _sized(study, base, cell)
            size = sizes[key]
            if size is not None:
                found.append(_planned(study, base, cell, size))
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    names = [planned.name for planned in found]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems[name] = Problem("budgets", name, "names two runs", "give budgets that differ in six digits")
    if problems:
        raise ConfigError(list(problems.values()))
    return found


def load_base(study: Study) -> Run:
    """The base with the study's changes. Raises ConfigError."""
    tree: dict[str, Any] = read_tree(Path(study.base), [])
    for path, value in study.settings.items():
        *rooms, last = path.split(".")
        place = tree
        for room in rooms:
            place = place.setdefault(room, {})
            if not isinstance(place, dict):
                raise ConfigError([Problem(f"settings.{path}", value, f"{room} holds no settings", "write a.b: value")])
        place[last] = value
    return check_tree(tree)


def write_configs(study: Study, planned: list[PlannedRun]) -> Path:
    """A whole YAML for each run, in study.dir/configs, which it returns. Those of an earlier plan are removed."""
    folder = Path(study.dir) / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.yaml"):
        if old.stem not in {one.name for one in planned}:
            old.unlink()
    for one in planned:
        write_atomically(config_of(study, one), to_yaml(one.run).encode())
    return folder


def config_of(study: Study, planned: PlannedRun) -> Path:
    return Path(study.dir) / "configs" / f"{planned.name}.yaml"


def _cells(study: Study) -> Iterator[Cell]:
    series: list[tuple[Objective, float]] = [
        (name, share) for name in study.objectives for share in (study.two_stream if name == "armd" else [0.0])
    ]
    for objective, share in series:
        title = f"{objective}-{share:g}" if objective == "armd" and len(study.two_stream) > 1 else objective
        for depth in study.depths:
            for budget in study.budgets.values:
                for seed in study.seeds:
                    yield Cell(title, objective, share, depth, budget, seed, held_out=False)
        for each in study.held_out:
            yield Cell(title, objective, share, each.depth, each.tokens, study.seeds[0], held_out=True)


def _sized(study: Study, base: Run, cell: Cell) -> _Size:
    """The network in a layout for its processes. Raises ConfigError where there is none."""
    hardware = study.hardware
    run = sized(base, study.ladder, cell.depth, cell.objective, cell.share)
    parameters, cost = num_parameters(run.model), flops_per_token(run)
    if hardware.gpu is None:
        assert hardware.flops_per_second is not None, "HardwareConfig checks it"
        check_tree(run.model_dump(), hardware.count)
        return _Size(run, parameters, cost, {}, cost / hardware.flops_per_second / 3600)
    gpu = GPUS[hardware.gpu]
    layout = _cheapest(run, hardware.count, gpu)
    if layout is None:
        check_tree(run.model_dump(), hardware.count)  # what is wrong with the base on so many processes, if that is it
        rule = f"({cell.objective}) fits {hardware.count} x {gpu.name} under no layout that was tried"
        remedy = "raise hardware.count, lower training.micro_batch_size, or leave the size out"
        raise ConfigError([Problem("depths", cell.depth, rule, remedy)])
    run = changed(run, layout)
    mfu = hardware.mfu if hardware.flops_per_second is None else hardware.flops_per_second / gpu.flops
    days = make_plan(run, hardware.count, gpu, 1.0, mfu).days
    return _Size(run, parameters, cost, layout, days * 24 * hardware.count)


def _planned(study: Study, base: Run, cell: Cell, size: _Size) -> PlannedRun:
    """Raises ConfigError where the budget is of too few steps."""
    tokens = cell.budget
    if not cell.held_out and study.budgets.kind != "tokens":
        per_parameter = study.budgets.kind == "tokens_per_parameter"
        tokens = cell.budget * size.parameters if per_parameter else cell.budget / size.flops_per_token
    per_step, name = base.training.global_batch_size * base.data.sequence_length, cell.name(study.budgets.kind)
    steps = round(tokens / per_step)
    if steps < FEWEST_STEPS:
        rule = f"gives {name} {steps} steps of {per_step:,} tokens"
        remedy = f"use budgets of at least {FEWEST_STEPS} steps for every size, or a smaller training.global_batch_size"
        raise ConfigError([Problem("held_out" if cell.held_out else "budgets", f"{cell.budget:g}", rule, remedy)])
    run = check_tree(scheduled(size.run, base, steps, cell.seed, str(Path(study.dir) / "runs" / name)))
    trained = steps * per_step
    hours = size.gpu_hours_per_token * trained
    return PlannedRun(name, cell, run, size.parameters, size.flops_per_token, trained, size.layout, hours)


def _cheapest(run: Run, count: int, gpu: GPU) -> dict[str, str | int] | None:
    """Changes to the base's layout, none where it fits, else the cheapest first; None where nothing fits."""
    for changes in layouts(run, count):
        candidate = changed(run, changes)
        split = candidate.parallel.tensor * candidate.parallel.pipeline
        if not cross_problems(candidate, count) and memory_of(candidate, count // split).total <= gpu.usable:
            return changes
    return None
