"""The report's figures: each drawn from rows that are written beside it, as NAME.png and NAME.csv."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from armd_dist.scaling.fitting import Point
from armd_dist.scaling.hardware import GPUS
from armd_dist.scaling.study import Study
from data_pipeline.files import write_atomically

Rows = list[dict[str, Any]]
COLOURS = ("#4477aa", "#ee8866", "#228833", "#aa3377", "#bbaa33", "#66ccee")
EXPONENTS = ("a", "b", "growth")
DPI = 140


def label_of(name: str, bound: bool) -> str:
    """A bound's numbers are not told as those of a loss."""
    return f"{name} (bound)" if bound else name


def loss_rows(content: dict[str, Any]) -> Rows:
    """Points, and the law's frontier with its interval."""
    rows: Rows = []
    for name, one in content["series"].items():
        label = label_of(name, one["bound"])
        for point in one["points"]:
            shown = {key: point[key] for key in ("run", "parameters", "tokens", "flops", "loss", "low", "high")}
            rows.append({"series": label, "kind": "run", **shown})
        for each in one["frontier"]:
            sides = {"parameters": each["parameters"]["value"], "tokens": each["tokens"]["value"]}
            ends = {"loss": each["loss"]["value"], "low": each["loss"]["low"], "high": each["loss"]["high"]}
            rows.append({"series": label, "kind": "frontier", "run": "", **sides, "flops": each["flops"], **ends})
    return rows


def draw_loss(axes: Any, rows: Rows) -> None:
    for colour, name in zip(COLOURS, _names(rows), strict=False):
        runs = [row for row in rows if row["series"] == name and row["kind"] == "run"]
        curve = [row for row in rows if row["series"] == name and row["kind"] == "frontier"]
        sizes = sorted({row["parameters"] for row in runs})
        area = [18 + 26 * sizes.index(row["parameters"]) for row in runs]
        axes.scatter([row["flops"] for row in runs], [row["loss"] for row in runs], area, color=colour, alpha=0.6, lw=0)
        flops = [row["flops"] for row in curve]
        axes.plot(flops, [row["loss"] for row in curve], color=colour, label=name)
        axes.fill_between(flops, [r["low"] for r in curve], [r["high"] for r in curve], color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", xlabel="training FLOPs, both streams counted", ylabel="held-out loss, nats a token")
    _legend(axes)


def isoflop_rows(content: dict[str, Any]) -> Rows:
    """Points of each slice, and the bottom of its parabola."""
    rows: Rows = []
    for name, one in content["series"].items():
        for each in one["isoflop"]:
            label, slice_ = label_of(name, one["bound"]), {"slice": each["flops"]}
            c0, c1, c2 = each["coefficients"]
            for point in one["points"]:
                if point["budget"] == each["flops"]:
                    x = float(np.log(point["parameters"]))
                    fitted = c0 + c1 * x + c2 * x * x
                    shown = {"parameters": point["parameters"], "loss": point["loss"], "parabola": fitted}
                    rows.append({"series": label, **slice_, "kind": "run", **shown, "low": None, "high": None})
            if each["parameters"] is not None:
                x = float(np.log(each["parameters"]))
                at = {"parameters": each["parameters"], "loss": None, "parabola": c0 + c1 * x + c2 * x * x}
                rows.append(
                    {"series": label, **slice_, "kind": "bottom", **at, "low": each["low"], "high": each["high"]}
                )
    return rows


def draw_isoflop(axes: Any, rows: Rows) -> None:
    marks = "osD^v"
    slices = sorted({row["slice"] for row in rows})
    for colour, name in zip(COLOURS, _names(rows), strict=False):
        for flops in slices:
            runs = [r for r in rows if r["series"] == name and r["slice"] == flops and r["kind"] == "run"]
            runs.sort(key=lambda row: row["parameters"])
            mark = marks[slices.index(flops) % len(marks)]
            x = np.log([row["parameters"] for row in runs])
            axes.plot(np.exp(x), [row["loss"] for row in runs], mark, color=colour, label=f"{name}, {flops:.2g} FLOPs")
            curve = np.polyfit(x, [row["parabola"] for row in runs], 2)
            fine = np.linspace(x.min(), x.max(), 60)
            axes.plot(np.exp(fine), np.polyval(curve, fine), color=colour, lw=1, alpha=0.7)
            bottoms = [r for r in rows if r["series"] == name and r["slice"] == flops and r["kind"] == "bottom"]
            for row in bottoms:
                if runs[0]["parameters"] <= row["parameters"] <= runs[-1]["parameters"]:
                    axes.plot(row["parameters"], row["parabola"], "*", color=colour, ms=12, mec="white")
    axes.set(xscale="log", xlabel="parameters", ylabel="held-out loss, nats a token")
    _legend(axes)


def exponent_rows(content: dict[str, Any]) -> Rows:
    rows: Rows = []
    for name, one in content["series"].items():
        numbers = {"a": one["law"]["a"], "b": one["law"]["b"], "growth": one["growth"]}
        label = label_of(name, one["bound"])
        rows += [{"series": label, "exponent": exponent, **number} for exponent, number in numbers.items()]
    return rows


def draw_exponents(axes: Any, rows: Rows) -> None:
    names = _names(rows)
    for place, name in enumerate(names):
        for row in (row for row in rows if row["series"] == name):
            y = EXPONENTS.index(row["exponent"]) + 0.2 * (place - (len(names) - 1) / 2)
            reach = [[max(0.0, row["value"] - row["low"])], [max(0.0, row["high"] - row["value"])]]
            colour, first = COLOURS[place % len(COLOURS)], row["exponent"] == EXPONENTS[0]
            axes.errorbar(
                [row["value"]], [y], xerr=reach, fmt="o", color=colour, capsize=3, label=name if first else None
            )
    axes.set_yticks(range(len(EXPONENTS)), ["a, of parameters", "b, of tokens", "best N grows as C^"])
    axes.set(xlabel="exponent, with its 95 % interval")
    _legend(axes)


def strided_rows(points: Sequence[Point]) -> Rows:
    """Of each ARMD size the run of most compute; first seeds alone."""
    best: dict[tuple[str, int], Point] = {}
    for point in points:
        cell, key = point.planned.cell, (point.planned.cell.series, point.planned.parameters)
        if cell.objective == "armd" and (key not in best or point.planned.flops > best[key].planned.flops):
            best[key] = point
    rows: Rows = []
    for (series, parameters), point in sorted(best.items()):
        for name, found in point.measured.perplexity.items():
            streams = 1 if name == "left_to_right" else int(name.removeprefix("strided_"))
            shown = {key: found[key] for key in ("value", "low", "high")}
            about = {"series": series, "parameters": parameters, "run": point.planned.name}
            rows.append({**about, "streams": streams, **shown})
    return rows


def draw_strided(axes: Any, rows: Rows) -> None:
    keys = sorted({(row["series"], row["parameters"]) for row in rows})
    several = len({series for series, _ in keys}) > 1
    for place, key in enumerate(keys):
        mine = sorted((r for r in rows if (r["series"], r["parameters"]) == key), key=lambda row: row["streams"])
        values = [row["value"] for row in mine]
        reach = [[v - (r["low"] or v) for v, r in zip(values, mine, strict=True)]]
        reach.append([(r["high"] or v) - v for v, r in zip(values, mine, strict=True)])
        title = f"{key[1]:,} parameters" + (f", {key[0]}" if several else "")
        style = {"color": COLOURS[place % len(COLOURS)], "marker": "o", "capsize": 3}
        axes.errorbar([row["streams"] for row in mine], values, yerr=np.maximum(reach, 0.0), label=title, **style)
    axes.set(xscale="log", xlabel="streams S", ylabel="held-out perplexity under S streams")
    streams = sorted({row["streams"] for row in rows})
    axes.set_xticks(streams, [str(each) for each in streams])
    axes.minorticks_off()
    _legend(axes)


def speed_rows(study: Study, points: Sequence[Point]) -> Rows:
    """Throughput of each run; MFU where the study's GPU has a data sheet."""
    peak = None if study.hardware.gpu is None else GPUS[study.hardware.gpu].flops * study.hardware.count
    rows: Rows = []
    for point in points:
        planned, speed = point.planned, point.measured.tokens_per_second
        if speed is not None:
            flops = speed * planned.flops_per_token
            about = {"series": planned.cell.series, "run": planned.name, "parameters": planned.parameters}
            mfu = None if peak is None else flops / peak
            rows.append({**about, "tokens_per_second": speed, "flops_per_second": flops, "mfu": mfu})
    return rows


def draw_speed(axes: Any, rows: Rows) -> None:
    name, title = ("mfu", "MFU") if rows[0]["mfu"] is not None else ("flops_per_second", "FLOP/s of a run")
    other = axes.twinx()
    for colour, series in zip(COLOURS, _names(rows), strict=False):
        mine = [row for row in rows if row["series"] == series]
        sizes = sorted({row["parameters"] for row in mine})
        for where, key, style in ((axes, "tokens_per_second", "-o"), (other, name, "--s")):
            means = [np.median([row[key] for row in mine if row["parameters"] == size]) for size in sizes]
            where.plot(sizes, means, style, color=colour, ms=5, label=series if where is axes else None)
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="tokens/s (solid)")
    other.set(ylabel=f"{title} (dashed)", ylim=(0, None))
    _legend(axes)


def write_figure(folder: Path, name: str, rows: Rows, draw: Callable[[Any, Rows], None]) -> bytes:
    """NAME.csv and NAME.png in `folder`; returns the picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / f"{name}.csv", text.getvalue().encode())
    figure, axes = pyplot.subplots(figsize=(7.5, 4.4))
    axes.spines[["top"]].set_visible(False)
    draw(axes, rows)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, bbox_inches="tight")
    pyplot.close(figure)
    write_atomically(folder / f"{name}.png", picture.getvalue())
    return picture.getvalue()


def _legend(axes: Any) -> None:
    """To the right of everything."""
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.14, 1.0))


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["series"] for row in rows))
