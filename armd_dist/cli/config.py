"""`armd config`: the resolved settings of a run and, as a table on stderr, what it trains on when."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armd_dist.cli.arguments import CONFIG, OVERRIDES

if TYPE_CHECKING:
    from rich.table import Table

    from armd_dist.orders.config import OrdersConfig
    from armd_dist.orders.curriculum import Stretch
    from armd_dist.run import Run


def config(
    path: Annotated[Path | None, CONFIG] = None,
    overrides: Annotated[list[str] | None, OVERRIDES] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of all settings, for editors.")
    ] = False,
) -> None:
    """Print every setting of a run as it would be used, or what is wrong with it.

    The settings go to stdout, as YAML; the schedule of the orders goes to stderr, as a table.

    Example: armd config configs/quickstart.yaml model.num_layers=6
    """
    from armd_dist.config import load_run, to_yaml
    from armd_dist.run import Run

    if schema:
        typer.echo(json.dumps(Run.model_json_schema(), indent=2))
    elif path is None:
        raise typer.BadParameter("give a CONFIG, or --schema")
    else:
        from rich.console import Console

        run = load_run(path, overrides)
        typer.echo(to_yaml(run), nl=False)
        Console(stderr=True).print(schedule(run))


def schedule(run: "Run") -> "Table":
    """What the run trains on when. Steps count from 1, as in the training log; learning rates are of first steps."""
    from armd_dist.orders.curriculum import Stretch, phases
    from armd_dist.tables import plain_table
    from armd_dist.training.schedule import learning_rate

    shown = plain_table("steps", "share", "phase", "rho", "samples", "learning rate")
    total = run.training.steps
    if run.model.network == "denoiser":
        phase = "learned_order" if run.model.learned_order else "masked_diffusion"
        rows = [(Stretch(0, total - 1, phase, 1), "", masked_tokens(run))]
    else:
        joined = _join_growth(run.orders, phases(run.orders, total))
        rows = [(stretch, rho, samples(run.orders, stretch.phase, rho)) for stretch, rho in joined]
    for (first, last, phase, _), rho, words in rows:
        share = _percent((last - first + 1) / total)
        steps = f"{first + 1:,} to {last + 1:,}" if last > first else f"{last + 1:,}"
        shown.add_row(steps, share, phase, rho, words, f"{learning_rate(run.training, first):.3g}")
    return shown


def _join_growth(orders: "OrdersConfig", rows: "list[Stretch]") -> "list[tuple[Stretch, str]]":
    """Each stretch and its rho in words. Growing one by one, rho takes too many values for a row each."""
    joined: list[tuple[Stretch, str]] = []
    smallest = 0
    for row in rows:
        growing = row.phase == "progressive" and orders.rho_growth == "linear" and row.rho < orders.rho_max
        if growing and joined and joined[-1][0].phase == "progressive":
            row = row._replace(first=joined.pop()[0].first)
        else:
            smallest = row.rho
        rho = str(row.rho) if smallest == row.rho else f"{smallest} to {row.rho}"
        joined.append((row, rho if row.phase == "progressive" else ""))
    return joined


def samples(orders: "OrdersConfig", phase: str, rho: str) -> str:
    """The orders of a phase's samples, in words."""
    if phase == "left_to_right":
        return "left to right"
    if phase == "strided":
        return _strided(orders)
    if phase == "mixture":
        mixture = orders.mixture or {}
        total = sum(mixture.values())
        return _shares([(weight / total, _scheme(orders, name)) for name, weight in mixture.items()])
    shuffled = {
        "segments": f"in {rho} shuffled segments",
        "tokens": f"with {rho} tokens changing places",
        "window": f"shuffled inside windows of {rho}",
    }[orders.rho_counts]
    if orders.block_sizes != [1]:
        shuffled += f", {_either(orders.block_sizes)} tokens at a time"
    kept = orders.keep_left_to_right
    return _shares([(kept, "left to right"), (1 - kept, shuffled)])


def masked_tokens(run: "Run") -> str:
    """What a denoiser trains on, in words."""
    if run.model.learned_order:
        return "masked tokens, 1 to all of them, twice, by the learned order"
    if run.orders.block_length is None:
        return "masked tokens, 1 to all of them"
    return f"masked tokens, 1 to {run.orders.block_length} of each window"


def _scheme(orders: "OrdersConfig", name: str) -> str:
    if name == "masked_diffusion":
        return f"masked diffusion in {orders.diffusion_steps} steps"
    if name == "block_diffusion":
        steps = orders.block_steps or orders.block_length
        return f"block diffusion, windows of {orders.block_length} in {steps} steps"
    return _strided(orders) if name == "strided" else name.replace("_", " ")


def _strided(orders: "OrdersConfig") -> str:
    return f"strided, {_either(orders.strided_streams)} streams"


def _either(numbers: list[int]) -> str:
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last


def _shares(parts: list[tuple[float, str]]) -> str:
    said = [(share, words) for share, words in parts if share > 0]
    return said[0][1] if len(said) == 1 else ",\n".join(f"{_percent(share)} {words}" for share, words in said)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
