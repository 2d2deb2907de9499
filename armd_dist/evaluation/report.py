"""Findings as a table on the terminal and as evaluation.json."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from armd_dist.evaluation.page import write_page
from armd_dist.evaluation.perplexity import Perplexity
from armd_dist.evaluation.quality import Quality
from armd_dist.evaluation.study import Findings
from armd_dist.tables import plain_table
from data_pipeline.files import write_atomically

COLUMNS = ("order", "PPL", "95 % interval", "bits/B", "heads", "parallel", "passes", "price")


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
        right = [f"{found.accuracy[name].value:.1%}"] if name in found.accuracy else []
        dearer = f"x {found.price[name].value:.3f}" if name in found.price else ""
        shown.add_row(name, *_cells(one), dearer, *right)
        if one.importance is not None:
            weighted = f"≤ {one.importance:.2f}"
            shown.add_row(f"  {one.draws} orders", weighted, *[""] * 5, f"x {one.importance / first:.3f}")
    return shown


def _cells(found: Perplexity) -> tuple[str, ...]:
    return (
        f"{found.value:.2f}" if found.draws is None else f"≤ {found.value:.2f}",
        "one document" if found.low is None else f"{_short(found.low)} to {_short(found.high)}",
        _shown(found.bits_per_byte, 3),
        _short(found.heads),
        _short(found.parallel),
        "" if found.steps is None else str(found.steps),
    )


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _short(value: float | None) -> str:
    """Three digits at least."""
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def samples_table(generation: Quality) -> Table:
    """What samples are like at each number of streams, beside held-out text."""
    shown = plain_table("samples", "gen-PPL", "entropy", "distinct-1", "repetition", "MAUVE", "passes", "tokens/s")
    for name, one in generation.items():
        judged = one["gen_ppl"]
        shown.add_row(
            name,
            "" if judged is None else f"{judged['value']:.2f}",
            f"{one['entropy']:.3f}",
            f"{one['distinct_1']:.3f}",
            _shown(one["repetition_4"], 3),
            _shown(one.get("mauve"), 3),
            str(one.get("passes", "")),
            f"{one['tokens_per_second']:,.0f}" if "tokens_per_second" in one else "",
        )
    judged = next(iter(generation.values()))["gen_ppl"]
    if judged is not None:
        shown.caption = f"judge: {judged['judge']} in {judged['judge_dtype']}"
    return shown


def write_report(
    folder: Path, about: dict[str, Any], findings: list[Findings], generation: Quality | None = None
) -> list[Path]:
    """Writes folder/evaluation.json and folder/report.html, each in one rename, and returns their paths.

    about: of the model and the settings.
    """
    content = dict(about)
    for found in findings:
        if found.material.name == "data":
            content |= found.content()
        else:
            content.setdefault("sets", {})[found.material.name] = found.content()
    if generation is not None:
        content["generation"] = generation
    write_atomically(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
    return [folder / "evaluation.json", write_page(folder, content)]
