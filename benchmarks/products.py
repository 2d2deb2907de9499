"""Matrix products for the few rows of a decoder's pass on a CPU: torch's own, by oneDNN, and on packed weights.

Example, half a minute:

    python benchmarks/products.py --out products.json

The three multiply the same rows with the same weights in fp32, and must agree before they are timed; they take turns in
one process. There are more weights than a CPU's caches hold, as in a network, so that few rows wait for memory.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from turns import report, run_command, setting, take_turns

from armd_dist.model.layers import product
from armd_dist.model.packing import packed

BYTES = 200 << 20
SHAPES = ((768, 768), (3072, 768), (768, 3072), (8192, 768))  # out, in: of GPT-2 small, and a head
ROWS = (1, 2, 8, 128)
CPU = torch.device("cpu")


def measure(shape: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """Lines with microseconds of a product for each number of rows, medians over the rounds."""
    plain = [torch.randn(shape) / shape[1] ** 0.5 for _ in range(-(-BYTES // (4 * shape[0] * shape[1])))]
    fast: list[Tensor] = [packed(weight) for weight in plain]
    lines = []
    for rows in ROWS:
        given = torch.randn(rows, 1, shape[1])
        for weight, same in zip(plain, fast, strict=True):
            for ours in (product(given, weight), product(given, same)):
                torch.testing.assert_close(ours, F.linear(given, weight), rtol=0, atol=1e-4)
        ways = {
            "torch": lambda given=given: [F.linear(given, weight) for weight in plain],
            "oneDNN": lambda given=given: [product(given, weight) for weight in plain],
            "packed": lambda given=given: [product(given, weight) for weight in fast],
        }
        taken = take_turns(ways, rounds, CPU)
        line: dict[str, Any] = {"out": shape[0], "in": shape[1], "rows": rows}
        line |= {f"{name}_us": 1e6 * seconds / len(plain) for name, seconds in taken.items()}
        lines.append(line | {f"{name}_speed": taken["torch"] / taken[name] for name in ("oneDNN", "packed")})
    return lines


def show(lines: list[dict[str, Any]], console: Console) -> None:
    table = Table("weight", "rows", "torch, us", "oneDNN, us", "packed, us", "oneDNN / torch", "packed / torch")
    for line in lines:
        times = (f"{line[f'{name}_us']:,.0f}" for name in ("torch", "oneDNN", "packed"))
        speeds = (f"{line[f'{name}_speed']:.2f} x" for name in ("oneDNN", "packed"))
        table.add_row(f"{line['out']} x {line['in']}", str(line["rows"]), *times, *speeds)
    console.print(table)


@torch.no_grad()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way; the median counts.")] = 7,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    lines = [line for shape in SHAPES for line in measure(shape, rounds)]
    report(setting(CPU, rounds=rounds, dtype="float32", threads=threads), lines, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
