"""A study on the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from armd_dist.heartbeat import duration
from armd_dist.scaling.grid import PlannedRun
from armd_dist.scaling.hardware import GPUS
from armd_dist.scaling.ladder import BOUNDS
from armd_dist.scaling.law import NAMES
from armd_dist.scaling.standing import Standing, measured, standing_of
from armd_dist.scaling.study import Study
from armd_dist.tables import plain_table


def plan_table(study: Study, planned: Sequence[PlannedRun]) -> Table:
    hours = "GPU-hours" if study.hardware.gpu else "CPU-hours"
    table = plain_table("run")
    for head in ("parameters", "layers x width", "L2s", "rate", "tokens", "steps", "FLOPs", hours, "layout"):
        table.add_column(head, justify="left" if head == "layout" else "right")
    for one in planned:
        model, training = one.run.model, one.run.training
        changes = " ".join(f"{path.partition('.')[2]}={value}" for path, value in one.layout.items())
        table.add_row(
            escape(one.name) + (" (held out)" if one.cell.held_out else ""),
            f"{one.parameters:,}",
            f"{model.num_layers} x {model.hidden_size}",
            str(model.two_stream_layers) if model.network == "armd" else "",
            f"{training.learning_rate:g}",
            f"{one.tokens:,}",
            f"{training.steps:,}",
            f"{one.flops:.3g}",
            f"{one.gpu_hours:.3g}",
            changes or "as the base",
        )
    return table


def total_line(study: Study, planned: Sequence[PlannedRun]) -> str:
    hours, hardware = sum(one.gpu_hours for one in planned), study.hardware
    if hardware.gpu is None:
        kind, what = "CPU-hours", f"{hardware.flops_per_second:.3g} FLOP/s of a process, measured"
    else:
        assumed = f"{hardware.mfu:.0%} MFU, an assumption"
        speed = f"{hardware.flops_per_second:.3g} FLOP/s, measured" if hardware.flops_per_second else assumed
        kind, what = "GPU-hours", f"{GPUS[hardware.gpu].name} at {speed}"
    flops = sum(one.flops for one in planned)
    return f"{len(planned)} runs, {flops:.3g} FLOPs, {hours:,.3g} {kind}: {hardware.count} x {what}; evaluation apart"


def status_table(study: Study, planned: Sequence[PlannedRun], jobs: Mapping[str, tuple[str, str | None]]) -> Table:
    """jobs: by name, the state and its reason of runs that a cluster has."""
    table = plain_table("run", "state", "step", "loss", "left", "")
    for one in planned:
        table.add_row(*map(escape, _standing_row(standing_of(study, one), jobs.get(one.name))))
    return table


def _standing_row(standing: Standing, job: tuple[str, str | None] | None) -> tuple[str, ...]:
    planned, beat = standing.planned, standing.heartbeat
    state, reason = standing.state, standing.reason
    if job is not None and state not in ("complete", "diverged"):
        state, reason = job
    loss = "" if beat is None or beat.loss is None else f"{beat.loss:.4f} training"
    if standing.state == "complete":
        found = measured(planned)
        loss = f"{found.loss:.4f} held out" + (", a bound" if planned.cell.objective in BOUNDS else "")
    step = "" if beat is None else f"{beat.step:,} of {planned.run.training.steps:,}"
    runs = standing.state == "running" and beat is not None and beat.eta_s is not None
    left = duration(beat.eta_s) if runs and beat is not None and beat.eta_s is not None else ""
    return planned.name, state, step, loss, left, reason or ""


def law_table(content: dict[str, Any]) -> Table:
    """The laws, each number with its 95 % interval."""
    table = plain_table(
        "series", "runs", *NAMES, "N grows as C^", title="L(N, D) = E + A / N^a + B / D^b, nats a token"
    )
    for name, one in content["series"].items():
        title = name + (" (bound)" if one["bound"] else "")
        numbers = [spoken(one["law"][each]) for each in NAMES]
        table.add_row(title, str(len(one["points"])), *numbers, spoken(one["growth"]))
    return table


def fit_lines(content: dict[str, Any]) -> list[str]:
    """What stands below the table."""
    lines = []
    for name, one in content["series"].items():
        at_least = ", at least, as its loss is a bound" if one["bound"] else ""
        for each in one["ar_ratio"]:
            lines.append(f"{name}: AR needs {spoken(each)} of its compute at {each['flops']:.3g} FLOPs{at_least}")
        for each in one["isoflop"]:
            lines.append(f"{name}: isoFLOP slice {each['flops']:.3g}: {slice_in_words(each)}")
        for each in one["predictions"]:
            said = f"{each['predicted']:.4f} ({each['low']:.4f} to {each['high']:.4f})"
            came = (
                "not there yet" if each["loss"] is None else f"came to {each['loss']:.4f}, error {each['error']:+.2%}"
            )
            lines.append(f"{name}: {each['run']} predicted {said}; {came}")
    lines += [f"not fitted: {name}: {reason}" for name, reason in content["refused"].items()]
    return lines + [f"left out: {one['run']}: {one['reason']}" for one in content["left_out"]]


def slice_in_words(slice_: dict[str, Any]) -> str:
    """Where an isoFLOP curve is lowest."""
    if slice_["parameters"] is None:
        return "no bottom: the curve opens downwards"
    high = "∞" if slice_["high"] is None else f"{slice_['high']:.3g}"
    interval = "" if slice_["low"] is None else f" ({slice_['low']:.3g} to {high})"
    outside = "" if slice_["inside"] else ", outside of the sizes that ran"
    return f"lowest at {slice_['parameters']:.3g} parameters{interval}{outside}"


def spoken(number: dict[str, float | None]) -> str:
    """A value with its interval; what is infinite is said so."""
    value, low, high = (
        f"{each:.3g}" if each is not None else "∞" for each in (number[k] for k in ("value", "low", "high"))
    )
    return f"{value} ({low} to {high})"
