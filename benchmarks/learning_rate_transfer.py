"""Whether the learning rate that is best for a narrow network is best for a wide one.

Example, a quarter of an hour on one core (killed, it goes on where it was):

    python benchmarks/learning_rate_transfer.py --text tinyshakespeare.txt --out docs/figures/learning-rate

Networks of several widths train on the bytes of a text, half of the samples left to right and half in random order,
each with every rate of a grid, under the standard parametrisation and under muP of width 64. What counts is the mean
loss of the last tenth of the steps; nearly no byte is read twice. OUT.csv has every run, OUT.svg the curves.
"""

import csv
import math
from pathlib import Path
from statistics import mean
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from coordinates import BOS, Parametrization, adam, make_config
from rich.console import Console
from rich.table import Table
from turns import run_command, setting

from armd_dist.errors import ConfigError, Problem
from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.parameter_groups import set_learning_rate
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.orders.schemes import any_order, left_to_right

LENGTH, BATCH, BYTES = 64, 8, 256
WARMUP, CLIP = 0.1, 1.0
FIELDS = ("parametrization", "width", "rate", "seed", "steps", "loss")


class Trial(NamedTuple):
    """One network's training. loss: nats a byte, None while it is to be done."""

    parametrization: Parametrization
    width: int
    rate: float
    seed: int
    steps: int
    loss: float | None = None


def trained(trial: Trial, text: np.ndarray) -> Trial:
    """The trial, with its loss: infinite where numbers are lost."""
    config = make_config(
        trial.width,
        trial.parametrization,
        vocab_size=BYTES,
        max_sequence_length=LENGTH,
        num_layers=2,
        two_stream_layers=1,
    )
    model = ARMD(config, PlainLayers())
    initialize(model, config, trial.seed)
    optimizer, losses = adam(model, config), []
    warmup = max(1, round(WARMUP * trial.steps))
    for step in range(trial.steps):
        loss = batch_at(text, trial.seed, step).loss(model)
        optimizer.zero_grad()
        loss.objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        left = (1 + math.cos(math.pi * max(0, step - warmup) / (trial.steps - warmup))) / 2
        set_learning_rate(optimizer.param_groups, trial.rate * min(1.0, (step + 1) / warmup) * left)
        optimizer.step()
        losses.append(loss.nll.item())
    found = mean(losses[-max(1, trial.steps // 10) :])
    return trial._replace(loss=found if math.isfinite(found) else math.inf)


def batch_at(text: np.ndarray, seed: int, step: int) -> MicroBatch:
    """The same for every network of this seed."""
    draw = np.random.default_rng((seed, step))
    starts = draw.integers(0, len(text) - LENGTH, BATCH)
    tokens = torch.from_numpy(np.stack([text[start : start + LENGTH] for start in starts]).astype(np.int64))
    orders = [left_to_right(LENGTH) if number % 2 else any_order(LENGTH, draw) for number in range(BATCH)]
    return ordered_batch(tokens, orders, BOS)


def best_rates(trials: list[Trial], parametrization: Parametrization) -> dict[int, float]:
    """{width: the rate of the lowest loss, the mean over seeds}."""
    losses: dict[int, dict[float, list[float]]] = {}
    for trial in trials:
        if trial.parametrization == parametrization and trial.loss is not None:
            losses.setdefault(trial.width, {}).setdefault(trial.rate, []).append(trial.loss)
    return {width: min(rates, key=lambda rate: mean(rates[rate])) for width, rates in losses.items()}


def read(file: Path) -> list[Trial]:
    """What an earlier start has done."""
    if not file.exists():
        return []
    with open(file, newline="") as stream:
        return [
            Trial(kind, int(width), float(rate), int(seed), int(steps), float(loss))  # type: ignore[arg-type]
            for kind, width, rate, seed, steps, loss in [*csv.reader(stream)][1:]
        ]


def add(trial: Trial, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = not file.exists()
    with open(file, "a", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(FIELDS)
        writer.writerow([*trial[:-1], f"{trial.loss:.5f}"])


def draw_chart(trials: list[Trial], file: Path) -> None:
    """Loss over the rate, a curve for each width."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "learning-rate"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    widths = sorted({trial.width for trial in trials})
    for axis, kind, title in zip(axes, ("standard", "mup"), ("standard", "muP"), strict=True):
        for number, width in enumerate(widths):
            curve: dict[float, list[float]] = {}
            for trial in trials:
                if (trial.parametrization, trial.width) == (kind, width) and trial.loss is not None:
                    curve.setdefault(trial.rate, []).append(trial.loss)
            rates = sorted(curve)
            losses, colour = [mean(curve[rate]) for rate in rates], pyplot.get_cmap("viridis")(number / len(widths))
            axis.plot(rates, losses, "o-", color=colour, label=f"width {width}", linewidth=1, markersize=4)
            lowest = min(range(len(rates)), key=losses.__getitem__)
            axis.plot(rates[lowest], losses[lowest], "*", color=colour, markersize=13)
        axis.set(title=title, xlabel="learning rate")
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss, nats a byte")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def show(trials: list[Trial], console: Console) -> None:
    table = Table("parametrisation", "width", "best rate", "grid steps from the narrowest", "loss there")
    for kind in ("standard", "mup"):
        best = best_rates(trials, kind)
        for width, rate in sorted(best.items()):
            found = mean(t.loss or 0 for t in trials if (t.parametrization, t.width, t.rate) == (kind, width, rate))
            apart = round(math.log2(rate / best[min(best)]))
            table.add_row(kind, str(width), f"{rate:.2g}", f"{apart:+d}", f"{found:.3f}")
    console.print(table)


def main(
    text: Annotated[Path, typer.Option(help="A file of text, a megabyte or so.")],
    widths: Annotated[str, typer.Option(help="Of the networks.")] = "64,128,256",
    rates: Annotated[str, typer.Option(help="Powers of two: the first and the last.")] = "-10,-5",
    steps: Annotated[int, typer.Option(help="Of each network.")] = 150,
    seeds: Annotated[int, typer.Option(help="Networks of each kind and rate.")] = 1,
    out: Annotated[Path, typer.Option(help="Where to: .csv and .svg are appended.")] = Path("learning-rate"),
) -> None:
    if not text.is_file():
        raise ConfigError([Problem("--text", text, "is not a file", "give a file of text")])
    torch.set_num_threads(1)
    console, content = Console(width=120), np.frombuffer(text.read_bytes(), dtype=np.uint8)
    first, last = (int(power) for power in rates.split(","))
    kinds: tuple[Parametrization, ...] = ("mup", "standard")
    wanted = [
        Trial(kind, int(width), 2.0**power, seed, steps)
        for width in widths.split(",")
        for kind in kinds
        for power in range(first, last + 1)
        for seed in range(seeds)
    ]
    file = out.with_suffix(".csv")
    done = {trial[:-1] for trial in read(file)}
    facts = setting(torch.device("cpu"), text=text.name, steps=steps, tokens_per_step=BATCH * LENGTH, seeds=seeds)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    for trial in wanted:
        if trial[:-1] not in done:
            add(found := trained(trial, content), file)
            console.print(f"{trial.parametrization} width {trial.width} rate {trial.rate:.2g}: loss {found.loss:.3f}")
    chosen = {trial[:-1] for trial in wanted}
    trials = [trial for trial in read(file) if trial[:-1] in chosen]
    draw_chart(trials, out.with_suffix(".svg"))
    show(trials, console)


if __name__ == "__main__":
    run_command(main, __doc__)
