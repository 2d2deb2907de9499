"""LoMDM against MDLM: does a learned order lower the bound, at equal steps and at equal FLOPs?

python benchmarks/lomdm.py --text DIR --out DIR --preset cpu

Both have the same denoiser, LoMDM two heads more. At equal FLOPs LoMDM, whose step costs three passes through the
network and the heads, has so many fewer steps, its schedule scaled. Stop it whenever you like: the same command goes on
where it stopped. With the same --out as quality.py it uses the same data.
"""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import typer
from experiment import Evaluation, Folder, Job, prepare_data, write_json
from models import MODELS, Setting, peak, schedule, setting
from plan import show_plan
from quality_report import settings_text, table
from rich.markdown import Markdown
from turns import run_command
from workers import Workers, console

from data_pipeline.files import write_atomically

STEPS = {"cpu": 2000, "gpu": 40_000}
LAST_PART = 10  # of a run's steps, one part: those over which the order's figures are averaged
LOMDM = (*MODELS["mdlm"], "model.learned_order=true")
ORDERS = ("order_nats", "forward_spread", "reverse_spread", "masking_variance")
TITLES = {"mdlm": "MDLM", "lomdm": "LoMDM, equal steps", "lomdm_flops": "LoMDM, equal FLOPs"}

Results = dict[str, dict[str, Any]]


def jobs(setting: Setting, seed: int) -> dict[str, Job]:
    """{a key of TITLES: the run} of one seed."""
    overrides = {"mdlm": MODELS["mdlm"], "lomdm": LOMDM, "lomdm_flops": LOMDM}
    mdlm, lomdm = (setting.facts(words)["training_flops_per_token"] for words in (MODELS["mdlm"], LOMDM))
    steps = dict.fromkeys(TITLES, setting.steps) | {"lomdm_flops": max(2, round(setting.steps * mdlm / lomdm))}
    rate = peak(setting.run(()).training.learning_rate)
    evaluation = Evaluation("held_out", None, setting.random_orders, setting.windows)
    return {
        name: setting.job(f"{name}-seed{seed}", (*schedule(steps[name], seed), *words, *rate), (evaluation,))
        for name, words in overrides.items()
    }


def main(
    text: Annotated[Path, typer.Option(help="Folder whose *.txt are trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; the same one goes on.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[a.b=c ...]", help="Changes to the preset.")] = None,
    preset: Annotated[Literal["cpu", "gpu"], typer.Option(help="gpu: not yet run.")] = "cpu",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to this less one.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time; else 2 for cpu, 1 for gpu.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of MDLM; else the preset's.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows of an evaluation; else the preset's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan alone.")] = False,
) -> None:
    """Train and evaluate both; print and write lomdm.md and lomdm.json."""
    chosen = setting(preset, steps or STEPS[preset], changes or [], windows)
    workers = workers or chosen.workers
    by_seed = [jobs(chosen, seed) for seed in range(seeds)]
    every = [job for of_seed in by_seed for job in of_seed.values()]
    if dry_run:
        show_plan(chosen, every, workers)
        return
    folder = Folder(out, chosen.config)
    runner = Workers(folder, workers)
    prepare_data(runner.command, folder, text, None, chosen.run(()).model.vocab_size, chosen.held_out)
    results = runner.run(every)
    rows = [
        {"model": name, "seed": seed, **row(folder, job, results[job.name])}
        for seed, of_seed in enumerate(by_seed)
        for name, job in of_seed.items()
    ]
    facts = {**chosen.shown(preset), "seeds": seeds}
    write_json(out / "lomdm.json", {"setting": facts, "rows": rows, "differences": differences(rows)})
    text_out = markdown(facts, rows)
    write_atomically(out / "lomdm.md", text_out.encode())
    console.print(Markdown(text_out))


def row(folder: Folder, job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """nats: the NELBO per token on held-out text; its error is that of the maskings alone."""
    found = result["held_out"]
    bound = found.get("learned_order") or found["masked_diffusion"]
    lines = [json.loads(line) for line in (folder.run_dir(job.name) / "metrics.jsonl").read_text().splitlines()]
    last = [line["learned_order"] for line in lines[-max(1, len(lines) // LAST_PART) :] if "learned_order" in line]
    return {
        **{name: job.facts[name] for name in ("parameters", "steps", "training_flops_per_token")},
        "flops": job.facts["training_flops_per_token"] * job.facts["tokens"],
        "nats": math.log(bound["value"]),
        "draw_error": bound["draw_error"],
        "order_form_nats": math.log(found["order_form"]["value"]) if "order_form" in found else None,
        **({name: mean(line[name] for line in last) for name in ORDERS} if last else {}),
    }


def differences(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """{LoMDM's run: its NELBO less MDLM's of the same seed, nats per token}, by seed. Negative: LoMDM's is lower."""
    nats = {(row["model"], row["seed"]): row["nats"] for row in rows}
    names = [name for name in TITLES if name != "mdlm"]
    return {
        name: [value - nats["mdlm", seed] for (of, seed), value in sorted(nats.items()) if of == name] for name in names
    }


def verdict(found: list[float]) -> str:
    """What seeds say together: all of them, or nothing."""
    if len(found) == 1:
        return f"{found[0]:+.4f} nats a token, one seed, which says nothing of the noise"
    shown = f"{mean(found):+.4f} nats a token, seeds {min(found):+.4f} to {max(found):+.4f}"
    if max(found) < 0:
        return f"{shown}: below MDLM's with every seed"
    return f"{shown}: above MDLM's with every seed" if min(found) > 0 else f"{shown}: no difference that seeds agree on"


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    heads = [
        "model",
        "seed",
        "steps",
        "parameters",
        "FLOPs",
        "NELBO, nats",
        "error of its maskings",
        "order form, nats",
    ]
    heads += [name.replace("_", " ") for name in ORDERS]
    cells = [
        [
            TITLES[row["model"]],
            str(row["seed"]),
            str(row["steps"]),
            f"{row['parameters']:,}",
            f"{row['flops']:.3g}",
            f"{row['nats']:.4f}",
            f"{row['draw_error']:.4f}",
            "" if row["order_form_nats"] is None else f"{row['order_form_nats']:.4f}",
            *(f"{row[name]:.3g}" if name in row else "" for name in ORDERS),
        ]
        for row in sorted(rows, key=lambda row: (list(TITLES).index(row["model"]), row["seed"]))
    ]
    said = [f"- {TITLES[name]}: {verdict(found)}" for name, found in differences(rows).items()]
    legend = (
        "NELBO per token of held-out text; the figures of the order are means over the last tenth of training. The "
        "differences are LoMDM's NELBO less MDLM's of the same seed."
    )
    return (
        "\n\n".join(["# LoMDM against MDLM", settings_text(facts), legend, table(heads, cells), "\n".join(said)]) + "\n"
    )


if __name__ == "__main__":
    run_command(main)
