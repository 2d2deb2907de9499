"""AR, ARMD, any-order, MDLM and BD3-LM with equal parameters on equal tokens, and again on equal FLOPs.

python benchmarks/quality.py --text DIR --out DIR --preset cpu

Each model is trained in full at several learning rates, for no single one is fair to all, and the run with the lowest
training loss at its end stands for the model. Samples are fresh, and held-out text has no part in the choice. Every
number comes from the real commands. Stop it whenever you like: the same command goes on where it stopped.
"""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from experiment import BenchmarkError, Evaluation, Folder, Job, prepare_data, training_files, write_json
from models import (
    BOUNDS,
    HEADLINE,
    MODELS,
    STRIDED,
    Setting,
    decisive,
    matching_ffn,
    model_overrides,
    peak,
    schedule,
    setting,
    strided_continuation,
)
from plan import show_plan
from quality_report import describe, write_report
from speed import measure
from turns import run_command
from workers import Workers, console

from armd_dist.evaluation.unigram import unigram_perplexity
from data_pipeline.stream import TokenStream

KEPT_OUT = ("held_out", "zero_shot")
STRIDED_SHARE = 0.15
FLOPS_TOLERANCE = 0.03
SPEED_ROUNDS = 9

Results = dict[str, dict[str, Any]]
Rates = dict[str, float]


def equal_steps(setting: Setting, name: str, rate: float, seed: int = 0) -> Job:
    """A model trained for all of the setting's steps."""
    suffix = f"-seed{seed}" if seed else ""
    return _job(setting, name, f"{name}-{rate:g}{suffix}", setting.steps, rate, seed)


def trials(setting: Setting) -> dict[str, dict[float, Job]]:
    """{model: {rate: its equal-steps run}}. Not evaluated: only the one that is chosen will be."""
    return {
        name: {rate: replace(equal_steps(setting, name, rate), evaluations=()) for rate in setting.rates}
        for name in MODELS
    }


def best_rates(tried: dict[str, dict[float, Job]], results: Results) -> Rates:
    """Each model's rate with the lowest training loss at its end."""
    return {name: min(jobs, key=lambda rate: results[jobs[rate].name]["train_loss"]) for name, jobs in tried.items()}


def parse_rates(text: str) -> tuple[float, ...]:
    """Learning rates from "1e-3,2e-3", from the lowest. Raises BenchmarkError."""
    try:
        rates = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError as error:
        raise BenchmarkError(f"--rates {text}: is no list of numbers; write --rates 1e-3,2e-3") from error
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        raise BenchmarkError(f"--rates {text}: holds a rate that is not above 0; write --rates 1e-3,2e-3")
    return rates


def planned(setting: Setting, seeds: int) -> list[Job]:
    """Every run, if the first rate proves the best for each model, and ARMD and AR the closest pair."""
    rates = dict.fromkeys(MODELS, setting.rates[0])
    jobs = [job for tried in trials(setting).values() for job in tried.values()]
    jobs += [*equal_flops(setting, rates).values(), strided(setting, rates)]
    jobs += [equal_steps(setting, name, rates[name], seed) for name in ("ar", "armd") for seed in range(1, seeds)]
    return list({job.name: job for job in jobs}.values())


def equal_flops(setting: Setting, rates: Rates) -> dict[str, Job]:
    """For each model the run whose training costs what AR's does: its first one where their costs are alike."""
    first = {name: equal_steps(setting, name, rates[name]) for name in MODELS}
    cost = {name: job.facts["training_flops_per_token"] for name, job in first.items()}
    chosen = {}
    for name, job in first.items():
        steps = max(1, round(setting.steps * cost["ar"] / cost[name]))
        alike = abs(cost[name] / cost["ar"] - 1) <= FLOPS_TOLERANCE
        chosen[name] = job if alike else _job(setting, name, f"{job.name}-equal-flops", steps, rates[name], 0)
    return chosen


def strided(setting: Setting, rates: Rates) -> Job:
    """ARMD's fine-tuning on strided orders."""
    of = equal_steps(setting, "armd", rates["armd"])
    return strided_continuation(setting, of, STRIDED_SHARE, _evaluations(setting, "armd"))


def _job(setting: Setting, model: str, name: str, steps: int, rate: float, seed: int) -> Job:
    overrides = (*schedule(steps, seed), *model_overrides(model, steps, matching_ffn(setting)), *peak(rate))
    return setting.job(name, overrides, _evaluations(setting, model))


def _evaluations(setting: Setting, model: str) -> tuple[Evaluation, ...]:
    """Only what the model is made for: AR has no other order, and a denoiser has its bound alone."""
    streams = {"ar": "1", "armd": STRIDED, "any_order": STRIDED}.get(model)
    orders = 0 if model == "ar" else setting.random_orders
    held_out = Evaluation("held_out", streams, orders, setting.windows)
    return (held_out, Evaluation("zero_shot", streams and "1", orders, setting.zero_shot_windows))


def closest_pair(headline: dict[str, float]) -> tuple[str, str]:
    """The two models with the nearest figures of one kind, exact or bound."""
    pairs = [
        (abs(math.log(headline[a] / headline[b])), a, b)
        for a, b in itertools.combinations(headline, 2)
        if (HEADLINE[a] in BOUNDS) == (HEADLINE[b] in BOUNDS)
    ]
    _, a, b = min(pairs)
    return a, b


def main(
    text: Annotated[Path, typer.Option(help="Folder whose *.txt are trained on.")],
    out: Annotated[Path, typer.Option(help="Folder for everything; the same one goes on.")],
    changes: Annotated[list[str] | None, typer.Argument(metavar="[a.b=c ...]", help="Changes to the preset.")] = None,
    preset: Annotated[Literal["cpu", "gpu"], typer.Option(help="gpu: not yet run.")] = "cpu",
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time; else 2 for cpu, 1 for gpu.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the two closest models.")] = 3,
    rates: Annotated[
        str | None, typer.Option(help="Peak learning rates that each model tries, as 1e-3,2e-3; else the preset's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of a run; else the preset's.")] = None,
    zero_shot: Annotated[Path | None, typer.Option(help="Text never trained on; else DIR/wikitext-2/test.txt.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows of an evaluation; else the preset's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan alone.")] = False,
) -> None:
    """Compare the models; print and write results.md, results.json and results.svg."""
    base = setting(preset, steps, changes or [], windows)
    if any(change.startswith(("training.learning_rate=", "training.min_learning_rate=")) for change in changes or []):
        raise BenchmarkError("training.learning_rate: each model is trained at every one of --rates; give it there")
    base = base if rates is None else replace(base, rates=parse_rates(rates))
    workers = workers or base.workers
    if dry_run:
        show_plan(base, planned(base, seeds), workers)
        console.print(f"Runs after the search are shown at the rate {base.rates[0]:g}; the search decides it.")
        return
    folder = Folder(out, base.config)
    runner = Workers(folder, workers)
    default = text / "wikitext-2" / "test.txt"
    other = zero_shot or (default if default.exists() else None)
    if other is None:
        raise BenchmarkError(f"--zero-shot: {default} is not there; name a text file")
    prepare_data(runner.command, folder, text, other, base.run(()).model.vocab_size, base.held_out)
    content = compare(base, runner, seeds) | {"unigram": unigram(folder, base.run(()).data.sequence_length)}
    names = ", ".join(path.name for path in training_files(text, other))
    facts = {**base.shown(preset), "training_text": names, "zero_shot_text": "/".join(other.parts[-2:])}
    facts |= {"workers": f"{workers}, one thread each"}
    write_report(out, {"setting": {**facts, **describe(base, content)}, **content})


def compare(base: Setting, runner: Workers, seeds: int) -> dict[str, Any]:
    """Does every run that is missing. Returns all results, and the names of the runs that stand for each model."""
    tried = trials(base)
    losses = runner.run([job for jobs in tried.values() for job in jobs.values()])
    rates = best_rates(tried, losses)
    one = {name: equal_steps(base, name, rates[name]) for name in MODELS}
    by_flops = equal_flops(base, rates)
    results = runner.run(list({job.name: job for job in (*one.values(), *by_flops.values())}.values()))
    pair = closest_pair({name: results[job.name]["held_out"][HEADLINE[name]]["value"] for name, job in one.items()})
    repeats = {name: [equal_steps(base, name, rates[name], seed) for seed in range(1, seeds)] for name in pair}
    after = strided(base, rates)
    results |= runner.run([after, *itertools.chain(*repeats.values())])
    return {
        "rates": rates,
        "tried": {
            name: {f"{r:g}": losses[j.name]["train_loss"] for r, j in jobs.items()} for name, jobs in tried.items()
        },
        "pair": pair,
        "equal_steps": {name: job.name for name, job in one.items()},
        "equal_flops": {name: job.name for name, job in by_flops.items()},
        "strided": after.name,
        "seeds": {name: [job.name, *(again.name for again in repeats.get(name, ()))] for name, job in one.items()},
        "speed": speed(base, runner.folder, one),
        "runs": results,
    }


def unigram(folder: Folder, sequence_length: int) -> dict[str, float]:
    """Perplexities of drawing tokens by their training frequencies, on all windows: what a model must get away from."""
    train, *others = (TokenStream(folder.data(name), sequence_length, seed=0) for name in ("train", *KEPT_OUT))
    return {name: unigram_perplexity(train, other) for name, other in zip(KEPT_OUT, others, strict=True)}


def speed(setting: Setting, folder: Folder, jobs: dict[str, Job]) -> dict[str, Any]:
    """Of the models in turn, from speed.json where it is of these very settings; else measured and written there."""
    file = folder.out / "results" / "speed.json"
    runs = {name: setting.run((*job.overrides, f"data.path={folder.data('train')}")) for name, job in jobs.items()}
    settings = {"rounds": SPEED_ROUNDS, "runs": {name: decisive(run) for name, run in runs.items()}}
    if not file.exists() or json.loads(file.read_text()).get("settings") != settings:
        with console.status("speed, all models in turn"):
            write_json(file, {"settings": settings, **measure(runs, SPEED_ROUNDS)})
    return json.loads(file.read_text())


if __name__ == "__main__":
    run_command(main)
