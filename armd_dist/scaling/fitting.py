"""A study's runs to its laws: what is fitted, what is left out and why, what follows; written as fit.json."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from armd_dist.scaling.frontier import Cost, Parabola, best_of, compute_ratio, growth, parabola
from armd_dist.scaling.grid import PlannedRun
from armd_dist.scaling.ladder import BOUNDS
from armd_dist.scaling.law import NAMES, Array, Fit, fit_law, interval_of
from armd_dist.scaling.standing import Measured, ScalingError, measured, standing_of
from armd_dist.scaling.study import Study
from data_pipeline.files import write_atomically

REFERENCE = "ar"
FEWEST_POINTS = len(NAMES) + 1
FEWEST_PLACES = 3
FRONTIER = 25  # budgets of the frontier's curve
WHY = {
    "waiting": "has not begun",
    "running": "still runs",
    "interrupted": "is not finished",
    "trained": "is not evaluated",
    "failed": "failed",
    "diverged": "diverged",
}


@dataclass(frozen=True)
class Point:
    planned: PlannedRun
    measured: Measured


@dataclass(frozen=True)
class SeriesFit:
    fit: Fit
    cost: Cost
    points: list[Point]


def gather(study: Study, planned: Sequence[PlannedRun]) -> tuple[list[Point], list[dict[str, str]]]:
    """Complete runs with what they came to; the others as {run, reason}."""
    points, left_out = list[Point](), list[dict[str, str]]()
    for one in planned:
        standing = standing_of(study, one)
        if standing.state == "complete":
            points.append(Point(one, measured(one)))
        else:
            reason = WHY[standing.state] + (f": {standing.reason}" if standing.reason else "")
            left_out.append({"run": one.name, "reason": reason})
    return points, left_out


def fit_study(study: Study, planned: Sequence[PlannedRun]) -> dict[str, Any]:
    """Everything that fit.json holds. Raises ScalingError where no series can be fitted, with the reasons."""
    points, left_out = gather(study, planned)
    names = list(dict.fromkeys(one.cell.series for one in planned))
    refused, fits = dict[str, str](), dict[str, SeriesFit]()
    for name in names:
        mine = [point for point in points if point.planned.cell.series == name and not point.planned.cell.held_out]
        reason = _too_few(mine)
        if reason is not None:
            refused[name] = reason
        else:
            fits[name] = _fitted(study, mine)
    if not fits:
        lines = [f"{name}: {reason}" for name, reason in refused.items()]
        raise ScalingError("\n".join([*lines, *(f"  left out: {one['run']} {one['reason']}" for one in left_out)]))
    series = {name: _described(study, planned, points, fits, name) for name in fits}
    return {"study": study.dir, "left_out": left_out, "refused": refused, "series": series}


def write_fit(study: Study, content: dict[str, Any]) -> Path:
    file = Path(study.dir) / "fit.json"
    write_atomically(file, (json.dumps(content, indent=2) + "\n").encode())
    return file


def _too_few(points: list[Point]) -> str | None:
    """Why these points do not tell a law, or None."""
    if len(points) < FEWEST_POINTS:
        return (
            f"{len(points)} complete runs do not tell the {len(NAMES)} numbers of a law and how far off they are; "
            f"finish at least {FEWEST_POINTS}"
        )
    for what, places in (
        ("sizes", {point.planned.parameters for point in points}),
        ("numbers of tokens", {point.planned.tokens for point in points}),
    ):
        if len(places) < FEWEST_PLACES:
            return f"{len(places)} {what} do not tell a power from a constant; finish at least {FEWEST_PLACES}"
    return None


def _fitted(study: Study, points: list[Point]) -> SeriesFit:
    parameters, tokens, losses = _columns(points)
    cost = np.array([point.planned.flops_per_token for point in points])
    fit = fit_law(parameters, tokens, losses, study.fit.huber_delta, study.fit.bootstrap)
    return SeriesFit(fit, Cost.of(parameters, cost), points)


def _columns(points: list[Point]) -> tuple[Array, Array, Array]:
    rows = [(point.planned.parameters, point.planned.tokens, point.measured.loss) for point in points]
    parameters, tokens, losses = np.array(rows, dtype=np.float64).T
    return parameters, tokens, losses


def _described(
    study: Study, planned: Sequence[PlannedRun], points: list[Point], fits: dict[str, SeriesFit], name: str
) -> dict[str, Any]:
    mine = fits[name]
    fit, cell = mine.fit, mine.points[0].planned.cell
    laws = {each: _number(getattr(fit.best, each), getattr(fit.draws, each)) for each in NAMES}
    slices = _slices(study, mine.points)
    return {
        "objective": cell.objective,
        "bound": cell.objective in BOUNDS,
        "law": laws,
        "points": [_row(point, fit, index) for index, point in enumerate(mine.points)],
        "cost": {"factor": mine.cost.factor, "power": mine.cost.power, "error": mine.cost.error},
        "growth": _number(growth(fit.best, mine.cost), growth(fit.draws, mine.cost)),
        "frontier": [_frontier(mine, flops) for flops in _budgets(mine, FRONTIER)],
        "isoflop": [{**vars(each), "high": _finite(each.high)} for each in slices],
        "isoflop_growth": _isoflop_growth(slices),
        "ar_ratio": [] if name == REFERENCE else _ratios(mine, fits.get(REFERENCE)),
        "predictions": _predictions(planned, points, mine, name),
    }


def _row(point: Point, fit: Fit, index: int) -> dict[str, Any]:
    planned, found = point.planned, point.measured
    return {
        "run": planned.name,
        "depth": planned.cell.depth,
        "budget": planned.cell.budget,
        "seed": planned.cell.seed,
        "parameters": planned.parameters,
        "tokens": planned.tokens,
        "flops": planned.flops,
        "loss": found.loss,
        "low": found.low,
        "high": found.high,
        "law": float(found.loss * np.exp(-fit.residuals[index])),
    }


def _budgets(mine: SeriesFit, count: int) -> list[float]:
    flops = [point.planned.flops for point in mine.points]
    return np.geomspace(min(flops), max(flops), count).tolist()


def _frontier(mine: SeriesFit, flops: float) -> dict[str, Any]:
    best, draws = best_of(mine.fit.best, mine.cost, flops), best_of(mine.fit.draws, mine.cost, flops)
    sides = {name: _number(getattr(best, name), getattr(draws, name)) for name in ("parameters", "tokens", "loss")}
    return {"flops": flops, **sides}


def _ratios(mine: SeriesFit, reference: SeriesFit | None) -> list[dict[str, Any]]:
    """At the least, the middle and the most compute of the series."""
    if reference is None:
        return []
    found = []
    for flops in _budgets(mine, 3):
        value = compute_ratio(mine.fit.best, mine.cost, reference.fit.best, reference.cost, flops)
        draws = compute_ratio(mine.fit.draws, mine.cost, reference.fit.draws, reference.cost, flops)
        found.append({"flops": flops, **_number(value, draws)})
    return found


def _slices(study: Study, points: list[Point]) -> list[Parabola]:
    if study.budgets.kind != "flops":
        return []
    found = []
    for budget in study.budgets.values:
        inside = [point for point in points if point.planned.cell.budget == budget]
        if inside:
            parameters, _, losses = _columns(inside)
            found.append(parabola(budget, parameters, losses, study.fit.bootstrap))
    return [each for each in found if each is not None]


def _isoflop_growth(slices: list[Parabola]) -> float | None:
    """The power of compute with which the parabolas' bottoms grow; None of fewer than two bottoms."""
    bottoms = [(each.flops, each.parameters) for each in slices if each.parameters is not None]
    if len(bottoms) < 2:
        return None
    flops, parameters = np.log(np.array(bottoms)).T
    return float(np.polyfit(flops, parameters, 1)[0])


def _predictions(
    planned: Sequence[PlannedRun], points: list[Point], mine: SeriesFit, name: str
) -> list[dict[str, Any]]:
    """Of the held-out runs. The interval is of a run: the law's, and the scatter of runs about it."""
    losses = {point.planned.name: point.measured.loss for point in points}
    fit, found = mine.fit, []
    free = len(mine.points) - len(NAMES)
    spread = float(np.sqrt((fit.residuals**2).sum() / free))
    for one in planned:
        if one.cell.series == name and one.cell.held_out:
            value = float(fit.best.loss(one.parameters, one.tokens))
            scatter = spread * np.random.default_rng(0).standard_t(free, size=fit.draws.E.shape)
            low, high = interval_of(fit.draws.loss(one.parameters, one.tokens) * np.exp(scatter))
            loss = losses.get(one.name)
            error = None if loss is None else value / loss - 1
            sizes = {"run": one.name, "parameters": one.parameters, "tokens": one.tokens, "flops": one.flops}
            found.append({**sizes, "predicted": value, "low": low, "high": high, "loss": loss, "error": error})
    return found


def _number(value: Array, draws: Array) -> dict[str, float | None]:
    """Infinite ones as null, which JSON can say."""
    low, high = interval_of(draws)
    return {"value": _finite(float(value)), "low": _finite(low), "high": _finite(high)}


def _finite(number: float | None) -> float | None:
    return number if number is not None and np.isfinite(number) else None
