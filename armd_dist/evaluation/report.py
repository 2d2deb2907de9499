"""Findings as a table on the terminal and as evaluation.json."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from armd_dist.evaluation.perplexity import Interval, Perplexity
from armd_dist.evaluation.study import Findings
from armd_dist.tables import plain_table
from data_pipeline.files import write_atomically

COLUMNS = ("order", "perplexity", "95 % interval", "bits/byte", "heads", "parallel", "passes", "price")


def table(found: Findings) -> Table:
    """For the terminal. Bounds have a sign before them; importance weighting makes the second, tighter one."""
    material = found.material
    shown = plain_table(*COLUMNS, *(["accuracy"] if found.accuracy else []))
    if material.name != "data":
        shown.title = material.name
    if material.about.get("attention") == "within_document":
        shown.caption = "each document by itself, as the model was trained (data.attention=within_document)"
    first = next(iter(found.perplexity.values())).value
    for name, one in found.perplexity.items():
        right = [_percent(found.accuracy[name])] if name in found.accuracy else []
        shown.add_row(name, *_cells(one), f"x {one.value / first:.3f}", *right)
        if one.importance is not None:
            weighted = f"≤ {one.importance:.2f}"
            shown.add_row(f"  {one.draws} orders", weighted, *[""] * 5, f"x {one.importance / first:.3f}")
    return shown


def _cells(found: Perplexity) -> tuple[str, ...]:
    return (
        f"{found.value:.2f}" if found.draws is None else f"≤ {found.value:.2f}",
        "one document" if found.low is None else f"{found.low:.4g} to {found.high:.4g}",
        _shown(found.bits_per_byte, 3),
        _shown(found.heads, 2),
        _shown(found.parallel, 2),
        "" if found.steps is None else str(found.steps),
    )


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(right: Interval) -> str:
    around = "" if right.low is None or right.high is None else f" ({right.low:.1%} to {right.high:.1%})"
    return f"{right.value:.1%}{around}"


def write_json(folder: Path, about: dict[str, Any], findings: list[Findings]) -> Path:
    """Writes folder/evaluation.json in one rename and returns its path. `about`: of the model and the settings."""
    content = dict(about)
    for found in findings:
        if found.material.name == "data":
            content |= found.content()
        else:
            content.setdefault("sets", {})[found.material.name] = found.content()
    write_atomically(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
    return folder / "evaluation.json"
