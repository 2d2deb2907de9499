"""AR, ARMD, any-order, MDLM and BD3-LM with equal parameters on equal tokens, and again on equal FLOPs.

python benchmarks/quality.py --text DIR --out DIR --preset cpu

Each model first finds its own learning rate in short runs, for no single one is fair to all. Every number comes from
the real commands. Stop it whenever you like: the same command goes on where it stopped.
"""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from experiment import BenchmarkError, Evaluation, Folder, Job, prepare_data, write_json
from models import (
    BOUNDS,
    HEADLINE,
    MODELS,
    STRIDED,
    TITLES,
    Setting,
    matching_ffn,
    model_overrides,
    schedule,
    setting,
    strided_continuation,
)
from plan import show_plan
from quality_report import write_report
from speed import measure
from workers import Workers, console, start

STRIDED_SHARE = 0.15
FLOPS_TOLERANCE = 0.03
SPEED_ROUNDS = 9
RATE_SHARE = 0.25  # of the steps, for the search of learning rates
RATE_WINDOWS = 200

Results = dict[str, dict[str, Any]]


def equal_steps(setting: Setting, name: str, seed: int = 0) -> Job:
    """A model trained for all of the setting's steps."""
    suffix = f"-seed{seed}" if seed else ""
    return _job(setting, name, f"{name}{suffix}", setting.steps, seed)


def rate_search(setting: Setting, rates: list[float]) -> dict[str, dict[float, Job]]:
    """For each model a short run of the same schedule at every rate."""
    steps = max(2, round(RATE_SHARE * setting.steps))
    return {
        name: {
            rate: _job(replace(setting, rates={name: rate}), name, f"{name}-rate-{rate:g}", steps, 0, RATE_WINDOWS)
            for rate in rates
        }
        for name in (MODELS if rates else ())
    }


def parse_rates(text: str) -> list[float]:
    """Learning rates from "1e-3,2e-3"; none from "". Raises BenchmarkError."""
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError as error:
        raise BenchmarkError(f"--rates {text}: is no list of numbers; write --rates 1e-3,2e-3") from error


def planned(setting: Setting, seeds: int) -> list[Job]:
    """What follows the search, if ARMD and AR prove to be the closest pair."""
    jobs = [equal_steps(setting, name) for name in MODELS] + list(equal_flops(setting).values()) + [strided(setting)]
    jobs += [equal_steps(setting, name, seed) for name in ("ar", "armd") for seed in range(1, seeds)]
    return list({job.name: job for job in jobs}.values())


def best_rates(search: dict[str, dict[float, Job]], results: Results) -> dict[str, float]:
    """Each model's rate with the lowest headline figure."""
    return {
        name: min(jobs, key=lambda rate: results[jobs[rate].name]["held_out"][HEADLINE[name]]["value"])
        for name, jobs in search.items()
    }


def equal_flops(setting: Setting) -> dict[str, Job]:
    """For each model the run whose training costs what AR's does: its first one where their costs are alike."""
    first = {name: equal_steps(setting, name) for name in MODELS}
    cost = {name: job.facts["training_flops_per_token"] for name, job in first.items()}
    chosen = {}
    for name, job in first.items():
        steps = round(setting.steps * cost["ar"] / cost[name])
        alike = abs(cost[name] / cost["ar"] - 1) <= FLOPS_TOLERANCE
        chosen[name] = job if alike else _job(setting, name, f"{name}-equal-flops", max(1, steps), 0)
    return chosen


def strided(setting: Setting) -> Job:
    """ARMD's fine-tuning on strided orders."""
    return strided_continuation(setting, equal_steps(setting, "armd"), STRIDED_SHARE, _evaluations(setting, "armd"))


def _job(setting: Setting, model: str, name: str, steps: int, seed: int, search_windows: int | None = None) -> Job:
    rate = (f"training.learning_rate={setting.rates[model]}",) if model in setting.rates else ()
    overrides = (*setting.base, *schedule(steps, seed), *model_overrides(model, steps, matching_ffn(setting)), *rate)
    evaluations = _evaluations(setting, model)
    if search_windows is not None:
        evaluations = (replace(evaluations[0], windows=search_windows),)
    return Job(name, overrides, steps, evaluations, facts=setting.facts(overrides))


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
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time, one thread each.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the two closest models.")] = 3,
    rates: Annotated[
        str, typer.Option(help="Learning rates that each model tries, separated by commas; '' for the preset's alone.")
    ] = "1e-3,2e-3,4e-3",
    steps: Annotated[int | None, typer.Option(min=2, help="Steps of a run; else the preset's.")] = None,
    zero_shot: Annotated[Path | None, typer.Option(help="Text never trained on; else DIR/wikitext-2/test.txt.")] = None,
    windows: Annotated[int | None, typer.Option(min=1, help="Windows of an evaluation; else the preset's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan alone.")] = False,
) -> None:
    """Compare the models; print and write results.md, results.json and results.svg."""
    base = setting(preset, steps, changes or [], windows)
    search = rate_search(base, parse_rates(rates))
    trials = [job for tried in search.values() for job in tried.values()]
    if dry_run:
        show_plan(base, [*trials, *planned(base, seeds)], workers)
        return
    folder = Folder(out, base.config)
    runner = Workers(folder, workers)
    default = text / "wikitext-2" / "test.txt"
    other = zero_shot or (default if default.exists() else None)
    if other is None:
        raise BenchmarkError(f"--zero-shot: {default} is not there; name a text file")
    prepare_data(runner.command, folder, text, other, base.run(()).model.vocab_size, base.held_out)
    tried = runner.run(trials) if trials else {}
    chosen = replace(base, rates=best_rates(search, tried))
    one = {name: equal_steps(chosen, name) for name in MODELS}
    by_flops = equal_flops(chosen)
    jobs = list({job.name: job for job in (*one.values(), *by_flops.values())}.values())
    results = runner.run(jobs)
    pair = closest_pair({name: results[name]["held_out"][HEADLINE[name]]["value"] for name in MODELS})
    repeats = [equal_steps(chosen, name, seed) for name in pair for seed in range(1, seeds)]
    results |= runner.run([strided(chosen), *repeats])
    speed = _speed(chosen, folder, one)
    texts = {"training_text": ", ".join(path.name for path in sorted(text.glob("*.txt")) if path != other)}
    texts["zero_shot_text"] = "/".join(other.parts[-2:])
    facts = {**chosen.shown(preset), **texts, "seeds": seeds, "workers": f"{workers}, one thread each"}
    if trials:
        found = ", ".join(f"{TITLES[name]} {rate:g}" for name, rate in chosen.rates.items())
        how = f"the best of {rates} in runs of {RATE_SHARE:.0%} of the steps, on {RATE_WINDOWS} held-out windows"
        facts |= {"learning_rate": f"{found}; {how}"}
    content = {"setting": facts, "pair": pair, "equal_flops": {n: j.name for n, j in by_flops.items()}}
    write_report(out, {**content, "speed": speed, "rate_search": tried, "runs": results})


def _speed(setting: Setting, folder: Folder, jobs: dict[str, Job]) -> dict[str, Any]:
    file = folder.out / "results" / "speed.json"
    if not file.exists():
        path = f"data.path={folder.data('train')}"
        with console.status("speed, all models in turn"):
            write_json(file, measure({n: setting.run((*job.overrides, path)) for n, job in jobs.items()}, SPEED_ROUNDS))
    return json.loads(file.read_text())


if __name__ == "__main__":
    start(main)
