"""What parallel streams cost in quality and bring in speed, before and after fine-tuning on strided orders.

Example, of a quickstart that has ended, about a minute on two CPU cores:

    python benchmarks/quality_speed.py runs/quickstart --data runs/quickstart-data/tokens/held_out --out runs/study

Takes the checkpoint with which the run's strided phase (orders.strided_from) began and its newest one, or any that
`--model NAME=PATH` names, and runs `armd eval` on each: exact perplexities, samples and their tokens per second, one
page each. The study is a table, quality_speed.json and quality_speed.svg. It goes on where it stopped.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from turns import report, run_command, setting

from armd_dist.checkpoint.folder import resolve_checkpoint, step_folder
from armd_dist.config import load_run
from armd_dist.errors import CheckpointError

BEFORE, AFTER = "before strided fine-tuning", "after it"
COLOURS = ("#ee8866", "#228833", "#4477aa", "#aa3377")


def models_of(run_dir: Path) -> dict[str, Path]:
    """The checkpoint that the strided phase began with, and the newest. Raises CheckpointError where one is missing."""
    run = load_run(resolve_checkpoint(run_dir) / "run.yaml")
    first = run.orders.strided_from
    if first is None or not step_folder(run_dir, first).exists():
        raise CheckpointError(
            f"{run_dir}: has no checkpoint of step orders.strided_from={first}; keep it (checkpoint.every, "
            "checkpoint.keep), or name checkpoints with --model NAME=PATH"
        )
    return {BEFORE: step_folder(run_dir, first), AFTER: resolve_checkpoint(run_dir)}


def evaluate(model: Path, out: Path, words: list[str]) -> dict[str, Any]:
    """evaluation.json of `armd eval`, which is not run again where the same was asked of the same checkpoint."""
    asked = json.dumps([str(model), *words])
    done = out / "asked.json"
    if not done.exists() or done.read_text() != asked:
        command = [sys.executable, "-m", "armd_dist", "eval", str(model), "--out", str(out), *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        done.write_text(asked)
    return json.loads((out / "evaluation.json").read_text())


def rows_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each number of streams: perplexity, its price, and what the samples of as many streams are like."""
    rows = []
    for name, one in found["generation"].items():
        if name == "reference":
            continue
        exact = found["perplexity"]["left_to_right" if one["streams"] == 1 else name]
        judged = one["gen_ppl"] and one["gen_ppl"]["value"]
        rows.append(
            {
                "streams": one["streams"],
                **{field: exact[field] for field in ("value", "low", "high", "heads", "parallel")},
                "price": exact.get("price"),
                "gen_ppl": judged,
                "entropy": one["entropy"],
                "passes": one["passes"],
                "tokens_per_second": one["tokens_per_second"],
            }
        )
    return rows


def table(study: dict[str, list[dict[str, Any]]]) -> Table:
    made = Table("", "S", "perplexity", "price", "gen-PPL", "entropy", "passes", "tokens/s, x S=1")
    for name, rows in study.items():
        for row in rows:
            cost = row["price"]
            made.add_row(
                name,
                str(row["streams"]),
                f"{row['value']:.1f}",
                "" if cost is None else f"{cost['value']:.3f} ({cost['low']:.3f} to {cost['high']:.3f})",
                "" if row["gen_ppl"] is None else f"{row['gen_ppl']:.1f}",
                f"{row['entropy']:.2f}",
                str(row["passes"]),
                f"{row['tokens_per_second'] / rows[0]['tokens_per_second']:.2f}",
            )
            name = ""
    return made


def draw(study: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """The price of each number of streams against the speed that it brings."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6))
    for (name, rows), colour in zip(study.items(), COLOURS, strict=False):
        costs = [row["price"] or {"value": 1.0, "low": 1.0, "high": 1.0} for row in rows]
        speeds = [row["tokens_per_second"] / rows[0]["tokens_per_second"] for row in rows]
        values = [cost["value"] for cost in costs]
        around = [[cost["value"] - cost["low"] for cost in costs], [cost["high"] - cost["value"] for cost in costs]]
        axes.errorbar(speeds, values, yerr=around, color=colour, marker="o", capsize=3, label=name)
        for speed, value, row in zip(speeds, values, rows, strict=True):
            text = f"S = {row['streams']}"
            axes.annotate(text, (speed, value), xytext=(6, -12), textcoords="offset points", fontsize=8, color=colour)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="tokens per second, over one stream", ylabel="perplexity, over left to right")
    axes.legend(frameon=False)
    figure.savefig(file, bbox_inches="tight")
    pyplot.close(figure)


def main(
    data: Annotated[str, typer.Option(help="Held-out dataset.")],
    out: Annotated[Path, typer.Option(help="Folder of the study.")],
    run: Annotated[Path | None, typer.Argument(help="Run with a strided phase.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a checkpoint; repeatable.")] = None,
    streams: Annotated[str, typer.Option(help="Numbers of streams.")] = "1,2,4,8",
    samples: Annotated[int, typer.Option(min=1, help="Texts for each number of streams.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts at a time; speed means something at one size.")] = 1,
    judge: Annotated[Path | None, typer.Option(help="Folder of a Hugging Face causal model.")] = None,
    device: Annotated[str | None, typer.Option(help="As of armd eval.")] = None,
) -> None:
    """Quality against speed by number of streams, before and after fine-tuning on strided orders."""
    named = [(name, Path(path)) for name, _, path in (text.partition("=") for text in model or [])]
    models = dict(named) if named else models_of(run or Path("runs/quickstart"))
    words = ["--data", data, "--streams", streams, "--samples", str(samples), "--batch-size", str(batch_size)]
    words += ["--judge", str(judge), "--trust-remote-code"] if judge is not None else []
    words += ["--device", device] if device is not None else []
    study = {name: rows_of(evaluate(path, out / name.replace(" ", "_"), words)) for name, path in models.items()}
    draw(study, out / "quality_speed.svg")
    facts = setting(torch.device(device or "cpu"), samples=samples, batch_size=batch_size, judge=str(judge), data=data)
    report(facts, study, lambda found, console: console.print(table(found)), out / "quality_speed.json")


if __name__ == "__main__":
    run_command(main)
