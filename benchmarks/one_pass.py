"""All conditionals of T denoising steps in one pass, against T separate passes.

Example, about a minute on a CPU:

    python benchmarks/one_pass.py --length 128 --out one_pass.json

Pass t of T gets the tokens of earlier blocks and is asked for those of block t. Either every pass has all rows, with
zeros for what is not known yet, as a masked-diffusion network reads them (full), or only the rows of blocks up to t
(prefix). Forward passes; all three ways must give the same log-probabilities before any timing.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import report, run_command, setting, take_turns

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import Layout, lay_out
from armd_dist.orders.schemes import any_order, masked_diffusion

BOS = 1
TOLERANCE = 1e-4  # nats, in fp32


@dataclass(frozen=True)
class Pass:
    """One forward pass: what it reads, what it is asked, and which of its rows count, [rows]."""

    layout: Layout
    targets: Tensor
    counts: Tensor

    def nll(self, model: ARMD) -> Tensor:
        """Nats of the rows that count, [batch, counted]."""
        return model.layers.token_nll(model(self.layout), self.targets).t()[:, self.counts]


def passes(length: int, steps: int, batch: int, vocab: int, device: torch.device) -> dict[str, list[Pass]]:
    """The three ways. As many steps as tokens means one token at a time, in a random order."""
    draw, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    order = any_order(length, draw) if steps == length else masked_diffusion(length, steps, draw)
    ids = torch.randint(vocab, (batch, length), generator=generator)
    position, block = torch.from_numpy(order.position), torch.from_numpy(order.block)

    def one(rows: Tensor, known: Tensor, counts: Tensor) -> Pass:
        read = torch.where(known[rows], ids[:, rows], 0)
        where, when = (part[rows].expand(batch, -1) for part in (position, block))
        layout = lay_out(read, where, when, BOS).to(device)
        return Pass(layout, ids[:, rows].to(device), counts[rows].to(device))

    everything, everywhere = torch.arange(length), torch.ones(length, dtype=torch.bool)
    ways: dict[str, list[Pass]] = {"one pass": [one(everything, everywhere, everywhere)], "full": [], "prefix": []}
    for now in block.unique():
        ways["full"].append(one(everything, block < now, block == now))
        ways["prefix"].append(one((block <= now).nonzero()[:, 0], block < now, block == now))
    return ways


@torch.no_grad()
def log_likelihood(model: ARMD, way: list[Pass]) -> Tensor:
    """Nats of all tokens in the sequence of revelation, [batch, tokens]."""
    return torch.cat([part.nll(model) for part in way], dim=1)


def measure(model: ARMD, length: int, steps: int, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Seconds of each way and ratios to the one pass, once they agree."""
    ways = passes(length, steps, batch, model.config.vocab_size, device)
    wanted = log_likelihood(model, ways["one pass"])
    far = 0.0
    for name in ("full", "prefix"):
        found = log_likelihood(model, ways[name])
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE, msg=f"{name} passes disagree with one pass")
        far = max(far, (found - wanted).abs().max().item())
    seconds = take_turns({name: partial(log_likelihood, model, way) for name, way in ways.items()}, rounds, device)
    ratios = {name: seconds[name] / seconds["one pass"] for name in ("full", "prefix")}
    return {"steps": steps, "passes": len(ways["full"]), "seconds": seconds, "ratios": ratios, "apart_nats": far}


def show(lines: list[dict[str, Any]], console: Console) -> None:
    table = Table("T", "passes", "full passes / one pass", "prefix passes / one pass", "furthest apart, nats")
    for line in lines:
        ratios = [f"{line['ratios'][name]:.1f}" for name in ("full", "prefix")]
        table.add_row(str(line["steps"]), str(line["passes"]), *ratios, f"{line['apart_nats']:.0e}")
    console.print(table)


def main(
    length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence (N).")] = 256,
    hidden: Annotated[int, typer.Option(min=32, help="Model width, in heads of 32.")] = 128,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    batch: Annotated[int, typer.Option(min=1)] = 4,
    device: Annotated[str, typer.Option(help="cpu or cuda, fp32 on both.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way; the median counts.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    shape = {"hidden_size": hidden, "num_layers": layers, "num_attention_heads": hidden // 32}
    config = ModelConfig.model_validate({"vocab_size": 1024, "max_sequence_length": length, **shape})
    model, on = ARMD(config, PlainLayers()), torch.device(device)
    initialize(model, config, seed=0)
    model = model.to(on).eval()
    lines = [measure(model, length, steps, batch, rounds, on) for steps in (1, 4, 8, length)]
    facts = setting(on, length=length, hidden=hidden, layers=layers, batch=batch, rounds=rounds, dtype="float32")
    report(facts, lines, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
