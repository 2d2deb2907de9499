"""Whether the scale of activations depends on the width: the coordinate check of Tensor Programs V, for both streams.

Example, some minutes on one core:

    python benchmarks/coordinates.py --widths 128,256,512,1024 --out docs/figures/coordinates

Networks that differ in nothing but their width (heads widen, their number stays) take a few steps of Adam on one batch
of random tokens in random orders, under the standard parametrisation and under muP. OUT.csv has the root mean square of
both streams at each layer, of scores and of logits at each step, and of how much they have changed since the start;
OUT.svg shows the latter. Under muP streams keep their scale; what random weights make of scores and logits falls with
the width, until training has given them a direction (stated).
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from turns import run_command

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initialize
from armd_dist.model.kernels import heads_first
from armd_dist.model.layers import PlainLayers
from armd_dist.model.parameter_groups import parameter_groups, set_learning_rate
from armd_dist.model.parametrization import width_ratio
from armd_dist.model.two_stream import TwoStreamLayer, UpperLayer
from armd_dist.objectives.likelihood import MicroBatch, ordered_batch
from armd_dist.orders.schemes import any_order

Parametrization = Literal["standard", "mup"]
BASE, VOCAB, LENGTH, BATCH, BOS = 64, 96, 24, 8, 1


@dataclass(frozen=True)
class Coordinates:
    """The root mean square of one activation's entries, and of their change since the start, over all seeds."""

    parametrization: Parametrization
    width: int
    step: int
    activation: str
    scale: float
    change: float


class WatchedLayers(PlainLayers):
    """Notes what passes: `content N` and `query N` after N layers, `scores N` in layer N, `logits`."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def run(self, number: int, layer: nn.Module, *inputs: Any) -> Any:
        content, query, angles = (
            (inputs[0], *inputs[1:4:2]) if isinstance(layer, TwoStreamLayer) else (None, *inputs[:3:2])
        )
        if number == 0:
            self.note({"content 0": content, "query 0": query})
        found = layer(*inputs)
        after = found if isinstance(found, tuple) else (None, found)
        assert isinstance(layer, TwoStreamLayer | UpperLayer)
        # The last two-stream layer hands the content on as it is.
        self.note({f"content {number + 1}": None if after[0] is content else after[0], f"query {number + 1}": after[1]})
        with torch.no_grad():
            keyed, turns = (query, angles.query) if content is None else (content, angles.content)
            keys, _ = layer.attention.keys_values(layer.attention_norm(keyed), turns, None)
            queries = heads_first(layer.attention.queries(layer.attention_norm(query), angles.query))
            self.note({f"scores {number + 1}": queries @ keys.transpose(-1, -2) / sqrt(queries.shape[-1])})
        return found

    def logits(self, hidden: Tensor, weight: Tensor, vocab_size: int) -> Tensor:
        found = super().logits(hidden, weight, vocab_size)
        self.note({"logits": found})
        return found

    def note(self, named: dict[str, Tensor | None]) -> None:
        self.seen |= {name: each.detach().clone() for name, each in named.items() if each is not None}


def make_config(width: int, parametrization: Parametrization, **changes: Any) -> ModelConfig:
    """Four layers, two of them with two streams, and four heads."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "max_sequence_length": LENGTH,
        "hidden_size": width,
        "num_layers": 4,
        "num_attention_heads": 4,
        "init_std": 1 / sqrt(BASE),
        "mup_base_width": BASE if parametrization == "mup" else None,
        "pad_vocab_to": 1,
    }
    return ModelConfig(**{**settings, **changes})


def adam(model: nn.Module, config: ModelConfig, eps: float = 1e-8) -> torch.optim.AdamW:
    """As training makes it."""
    named = ((name, each, each.dim()) for name, each in model.named_parameters())
    return torch.optim.AdamW(parameter_groups(named, config, 0.0, {}), eps=eps / width_ratio(config))


def passed(config: ModelConfig, steps: int, rate: float, seed: int) -> list[dict[str, Tensor]]:
    """What passed through one network at the start and after each step."""
    layers = WatchedLayers()
    model = ARMD(config, layers)
    initialize(model, config, seed)
    optimizer, batch, found = adam(model, config), random_batch(seed), []
    for _ in range(steps + 1):
        loss = batch.loss(model).objective
        found.append(layers.seen)
        layers.seen = {}
        optimizer.zero_grad()
        loss.backward()
        set_learning_rate(optimizer.param_groups, rate)
        optimizer.step()
    return found


def random_batch(seed: int) -> MicroBatch:
    draw = np.random.default_rng(seed)
    tokens = torch.from_numpy(draw.integers(2, VOCAB, (BATCH, LENGTH)))
    return ordered_batch(tokens, [any_order(LENGTH, draw) for _ in range(BATCH)], BOS)


def measure(
    parametrization: Parametrization, widths: Sequence[int], steps: int, rate: float, seeds: int, **changes: Any
) -> list[Coordinates]:
    """changes: to the settings of the networks."""
    rows = []
    for width in widths:
        config = make_config(width, parametrization, **changes)
        every = [passed(config, steps, rate, seed) for seed in range(seeds)]
        for step in range(steps + 1):
            for name in every[0][0]:
                scale = mean(_size(one[step][name]) for one in every)
                change = mean(_size(one[step][name] - one[0][name]) for one in every)
                rows.append(Coordinates(parametrization, width, step, name, scale, change))
    return rows


def _size(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def slopes(rows: Sequence[Coordinates], of: Literal["scale", "change"]) -> dict[str, float]:
    """Of each activation after the last step: p, where its size goes as width^p; least squares over the widths."""
    last, found = max(row.step for row in rows), {}
    for name in dict.fromkeys(row.activation for row in rows):
        points = [(row.width, getattr(row, of)) for row in rows if row.activation == name and row.step == last]
        if all(size > 0 for _, size in points):
            widths, sizes = (np.log2(part) for part in zip(*points, strict=True))
            found[name] = float(np.polyfit(widths, sizes, 1)[0])
    return found


def draw_chart(rows: Sequence[Coordinates], file: Path) -> None:
    """The change of each activation after the last step, over the width."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "coordinates"
    from matplotlib import pyplot

    last, names = max(row.step for row in rows), list(dict.fromkeys(row.activation for row in rows))
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    styles = {
        "content": ("#1f77b4", "o-"),
        "query": ("#d62728", "s-"),
        "scores": ("#999999", "x:"),
        "logits": ("black", "D--"),
    }
    for axis, kind, title in zip(axes, ("standard", "mup"), ("standard", "muP"), strict=True):
        for name in names:
            points = [
                (r.width, r.change) for r in rows if (r.parametrization, r.activation, r.step) == (kind, name, last)
            ]
            colour, style = styles[name.split()[0]]
            label = name.split()[0] if name in ("content 1", "query 1", "scores 1", "logits") else None
            axis.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1, markersize=4)
        axis.set(title=title, xscale="log", yscale="log", xlabel="width")
        widths = sorted({row.width for row in rows})
        axis.set_xticks(widths, map(str, widths), minor=False)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f"change after {last} steps (root mean square)")
    axes[1].legend(frameon=False)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)


def main(
    widths: Annotated[str, typer.Option(help="Of the networks, the narrowest first.")] = "128,256,512,1024",
    steps: Annotated[int, typer.Option(help="Of Adam.")] = 5,
    rate: Annotated[float, typer.Option(help="The learning rate, without warm-up.")] = 4e-3,
    seeds: Annotated[int, typer.Option(help="Networks and batches, whose sizes are averaged.")] = 2,
    out: Annotated[Path, typer.Option(help="Where to: .csv and .svg are appended.")] = Path("coordinates"),
) -> None:
    torch.set_num_threads(1)
    sizes, rows, table = [int(width) for width in widths.split(",")], [], Table()
    for title in ("activation", "standard: scale", "change", "muP: scale", "change"):
        table.add_column(title, justify="left" if title == "activation" else "right")
    found: list[dict[str, float]] = []
    for kind in ("standard", "mup"):
        rows += (mine := measure(kind, sizes, steps, rate, seeds))
        found += [slopes(mine, "scale"), slopes(mine, "change")]
    for name in found[0]:
        table.add_row(name, *(f"{part[name]:+.2f}" if name in part else "" for part in found))
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_suffix(".csv"), "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
            for row in rows
        )
    draw_chart(rows, out.with_suffix(".svg"))
    console = Console(width=120)
    console.print(f"sizes after {steps} steps grow as width to the power of (0: not at all)")
    console.print(table)


if __name__ == "__main__":
    run_command(main, __doc__)
