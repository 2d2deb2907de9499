"""What ARMD's open choices are worth: query context, two-stream layers, what rho counts, how much stays left to right.

python benchmarks/ablation.py --text DIR --out DIR --preset cpu

Every run is the curriculum and then fine-tuning on strided orders, all on equal tokens. Stop it whenever you like: the
same command goes on where it stopped. With the same --out as quality.py it uses the same data.
"""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from experiment import Evaluation, Folder, Job, prepare_data, write_json
from models import FLOOR, STRIDED, Setting, curriculum, peak, schedule, setting, strided_continuation
from plan import show_plan
from quality_report import settings_text, table
from rich.markdown import Markdown
from turns import run_command
from workers import Workers, console

from data_pipeline.files import write_atomically

CONTEXTS = ("neighbours", "linear", "both", "none")
COUNTS = ("segments", "tokens", "window")
KEPT = (0.25, 0.5, 0.75)
STRIDED_SHARE = 0.2
STEPS = {"cpu": 400, "gpu": 40_000}
WINDOWS = {"cpu": 240, "gpu": 2048}
FIGURES = {"left_to_right": "PPL_1", "strided_2": "PPL_2", "strided_4": "PPL_4"}


@dataclass(frozen=True)
class Choice:
    """One point of the design."""

    context: str
    layers: int
    counts: str
    kept: float

    @property
    def name(self) -> str:
        return f"{self.context}-{self.layers}-{self.counts}-{round(100 * self.kept)}"

    def overrides(self) -> tuple[str, ...]:
        return (
            f"model.query_context={self.context}",
            f"model.two_stream_layers={self.layers}",
            f"orders.rho_counts={self.counts}",
            f"orders.keep_left_to_right={self.kept}",
        )


def design(kind: str, num_layers: int) -> list[Choice]:
    """axes: each pair of choices with the other at its default; full: the whole product. Each point once."""
    depths = sorted({0, 1, num_layers // 4, num_layers // 2, num_layers})
    networks, orders = list(itertools.product(CONTEXTS, depths)), list(itertools.product(COUNTS, KEPT))
    if kind == "full":
        points = [(*network, *order) for network in networks for order in orders]
    else:
        points = [(*network, "segments", 0.5) for network in networks]
        points += [("neighbours", num_layers // 2, *order) for order in orders]
    # Without two streams a query that starts from its position alone would never see a token.
    return [Choice(*point) for point in dict.fromkeys(points) if point[:2] != ("none", 0)]


def jobs(setting: Setting, choice: Choice) -> tuple[Job, Job]:
    """The curriculum, where the bound over any order is measured, and its strided fine-tuning, where PPL_S is."""
    rate = peak(setting.run(()).training.learning_rate)
    overrides = (*schedule(setting.steps), *curriculum(setting.steps), *rate, *choice.overrides())
    bound = Evaluation("held_out", "1", setting.random_orders, setting.windows)
    first = setting.job(f"ablation-{choice.name}", overrides, (bound,))
    exact = Evaluation("held_out", STRIDED, 0, setting.windows)
    return first, strided_continuation(setting, first, STRIDED_SHARE, (exact,))


def main(
    text: Annotated[Path, typer.Option(help="Folder whose *.txt are trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; the same one goes on.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[a.b=c ...]", help="Changes to the preset.")] = None,
    preset: Annotated[Literal["cpu", "gpu"], typer.Option(help="gpu: not yet run.")] = "cpu",
    kind: Annotated[Literal["axes", "full"], typer.Option("--design", help="full: the whole product.")] = "axes",
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time; else 2 for cpu, 1 for gpu.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of the curriculum; else the preset's.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows of an evaluation; else the preset's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan alone.")] = False,
) -> None:
    """Compare the choices; print and write ablation.md and ablation.json."""
    chosen = setting(preset, steps or STEPS[preset], changes or [], windows or WINDOWS[preset])
    workers = workers or chosen.workers
    choices = design(kind, chosen.run(()).model.num_layers)
    pairs = {choice: jobs(chosen, choice) for choice in choices}
    first, second = [pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()]
    if dry_run:
        show_plan(chosen, [*first, *second], workers)
        return
    folder = Folder(out, chosen.config)
    runner = Workers(folder, workers)
    vocabulary = chosen.run(()).model.vocab_size
    prepare_data(runner.command, folder, text, None, vocabulary, chosen.held_out)
    results = runner.run(first) | runner.run(second)
    rows = sorted((row(choice, *(results[job.name] for job in pair)) for choice, pair in pairs.items()), key=_mean)
    facts = {
        **chosen.shown(preset),
        "learning_rate": f"{chosen.run(()).training.learning_rate:g} at its peak, {FLOOR:.0%} of the peak at the end",
        "steps": f"{chosen.steps} of curriculum, {STRIDED_SHARE:.0%} more on strided orders",
    }
    write_json(out / "ablation.json", {"setting": facts, "rows": rows})
    text_out = markdown(facts, rows)
    write_atomically(out / "ablation.md", text_out.encode())
    console.print(Markdown(text_out))


def row(choice: Choice, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """One line of the table. any_order: before the fine-tuning, which turns the network to strided orders."""
    return {
        "query_context": choice.context,
        "two_stream_layers": choice.layers,
        "rho_counts": choice.counts,
        "keep_left_to_right": choice.kept,
        "parameters": before["parameters"],
        "forward_flops_per_token": before["training_flops_per_token"] / 3,
        **{title: after["held_out"][figure]["value"] for figure, title in FIGURES.items()},
        "any_order_before": before["held_out"]["any_order"]["value"],
    }


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """rows: sorted. The best of each measured column is bold."""
    measured = [*FIGURES.values(), "any_order_before"]
    best = {column: min(row[column] for row in rows) for column in measured}
    cells = [
        [
            row["query_context"],
            str(row["two_stream_layers"]),
            row["rho_counts"],
            f"{row['keep_left_to_right']:g}",
            f"{row['parameters']:,}",
            f"{row['forward_flops_per_token'] / 1e6:.2f}",
            *(f"**{row[c]:.2f}**" if row[c] == best[c] else f"{row[c]:.2f}" for c in measured),
        ]
        for row in rows
    ]
    heads = ["query context", "two-stream layers", "rho counts", "kept left to right", "parameters"]
    heads += ["forward MFLOPs a token", *FIGURES.values(), "any-order bound"]
    legend = (
        "Held-out text, one seed. PPL_S: exact, after strided fine-tuning. Any-order bound: before it. Sorted by the "
        "geometric mean of the three PPL_S; the best of each column is bold."
    )
    return "\n\n".join(["# Ablation of ARMD's choices", settings_text(facts), legend, table(heads, cells)]) + "\n"


def _mean(row: dict[str, Any]) -> float:
    return sum(math.log(row[title]) for title in FIGURES.values())


if __name__ == "__main__":
    run_command(main)
