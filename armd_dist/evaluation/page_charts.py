"""The page's charts, as SVG: what more streams cost, and what they bring."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

BLUE, ORANGE, GREEN = "#4477aa", "#ee8866", "#228833"
Points = list[tuple[int, float, dict[str, Any]]]  # streams, where on the x-axis, {value, low, high}


def streams_of(name: str) -> int | None:
    """Of an order's name; None where it is no strided one."""
    if name == "left_to_right":
        return 1
    head, _, count = name.partition("_")
    return int(count) if head == "strided" and count.isdigit() else None


def speed_chart(points: Points, axis: str, label: str, reference: dict[str, Any] | None = None) -> str:
    """Values with their intervals against speed, S beside each; the reference as a line with its interval."""
    figure, axes = new_figure()
    points = sorted(points, key=lambda point: point[1])
    if reference is not None:
        axes.axhline(reference["value"], color=GREEN, linewidth=1, label="held-out text")
        if reference["low"] is not None:
            axes.axhspan(reference["low"], reference["high"], color=GREEN, alpha=0.12, linewidth=0)
        axes.legend(frameon=False, loc="upper left")
    values = [found["value"] for _, _, found in points]
    axes.errorbar(
        [x for _, x, _ in points],
        values,
        yerr=bars([found for _, _, found in points]),
        color=BLUE,
        marker="o",
        capsize=3,
    )
    for streams, x, found in points:
        axes.annotate(f"S = {streams}", (x, found["value"]), xytext=(8, -14), textcoords="offset points", fontsize=9)
    axes.margins(x=0.12, y=0.15)
    axes.set(xlabel=axis, ylabel=label)
    return svg(figure)


def phases_chart(points: Points) -> str:
    """Perplexity of heads and of what follows in parallel, for each S."""
    figure, axes = new_figure()
    points = sorted(points)
    for side, (name, colour) in enumerate((("heads", ORANGE), ("parallel", BLUE))):
        there = [(at, found[name]) for at, (_, _, found) in enumerate(points) if found.get(name) is not None]
        bars = axes.bar([at + 0.4 * side - 0.2 for at, _ in there], [value for _, value in there], 0.38, color=colour)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
        bars.set_label("heads, one by one" if name == "heads" else "parallel, S at a time")
    axes.set_xticks(range(len(points)), [f"S = {streams}" for streams, _, _ in points])
    axes.set(ylabel="perplexity")
    axes.margins(y=0.15)
    axes.legend(frameon=False, loc="upper left")
    return svg(figure)


def bars(found: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """How far each interval reaches below and above its value; nothing where there is none."""
    below = [one["value"] - one["low"] if one["low"] is not None else 0.0 for one in found]
    above = [one["high"] - one["value"] if one["high"] is not None else 0.0 for one in found]
    return [[max(side, 0.0) for side in sides] for sides in (below, above)]


def new_figure() -> tuple[Any, Any]:
    """A figure for SVG, and its axes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def svg(figure: Any) -> str:
    """The figure as an element of a page; it is closed."""
    import matplotlib
    from matplotlib import pyplot

    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        figure.savefig(out, format="svg", bbox_inches="tight")
    pyplot.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
