"""Time and memory of one attention call under a random order, by every kernel that can serve it.

Example, about a minute on a CPU:

    python benchmarks/attention.py --lengths 256,512 --out attention.json

reference is the definition with dense scores, sorted the plain causal kernel on rows stored as revealed, dense the same
rows under a dense mask, flex FlexAttention. Forward and backward; before any timing all of them must agree.
"""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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

from armd_dist.model.kernels import attend_flex, attend_reference, attend_sdpa, compiled_flex
from armd_dist.model.visibility import Blocks, Mask
from armd_dist.orders.schemes import any_order

KERNELS = ("reference", "sorted", "dense", "flex")
TOLERANCE = 1e-4
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One call: self-attention of `length` rows, row i seeing rows 0..i of its sequence's own random order."""

    length: int
    heads: int
    head_dim: int
    batch: int
    device: str

    def mask(self, kernel: str) -> Mask:
        if kernel == "sorted":
            return Mask(causal=True)
        orders = [any_order(self.length, np.random.default_rng(seed)) for seed in range(self.batch)]
        assert all(order.singletons for order in orders)
        blocks = torch.from_numpy(np.stack([order.block for order in orders]))
        mask = Mask(blocks=Blocks(blocks, blocks, strict=False)).to(self.device)
        return mask if kernel == "flex" else Mask(dense=mask.visible)

    def leaves(self, dtype: torch.dtype) -> list[Tensor]:
        """Queries [rows, batch, heads, head_dim], keys and values [batch, heads, rows, head_dim]."""
        generator = torch.Generator().manual_seed(0)
        shapes = [(self.length, self.batch, self.heads, self.head_dim)]
        shapes += [(self.batch, self.heads, self.length, self.head_dim)] * 2
        made = [torch.randn(shape, generator=generator) for shape in shapes]
        return [part.to(self.device, dtype).requires_grad_() for part in made]


def attention(kernel: str) -> Callable[..., Tensor]:
    if kernel == "flex":
        return partial(attend_flex, kernel=compiled_flex())
    return attend_reference if kernel == "reference" else attend_sdpa


def forward_backward(attend: Callable[..., Tensor], leaves: list[Tensor], mask: Mask) -> tuple[Tensor, ...]:
    """Output and gradients."""
    out = attend(*leaves, mask)
    return (out.detach(), *torch.autograd.grad(out.sum(), leaves))


def able(case: Case) -> tuple[list[str], dict[str, str]]:
    """Kernels that run and agree with the reference in fp32, and why the others do not run."""
    leaves, refused = case.leaves(torch.float32), {}
    wanted = forward_backward(attention("reference"), leaves, case.mask("reference"))
    for kernel in KERNELS[1:]:
        try:
            found = forward_backward(attention(kernel), leaves, case.mask(kernel))
        except NotImplementedError as error:
            refused[kernel] = str(error).split(". ")[0]
            continue
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE, msg=f"{kernel} is wrong")
    return [kernel for kernel in KERNELS if kernel not in refused], refused


def peak_memory(kernel: str, case: Case, dtype: torch.dtype) -> float:
    """MiB beyond the inputs at the worst moment, mask included. On CPU of a process that does nothing else (Linux)."""
    if case.device == "cuda":
        return _peak_on_gpu(kernel, case, dtype)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as fresh:
        return fresh.submit(_peak_of_process, kernel, case, dtype, torch.get_num_threads()).result()


def _peak_on_gpu(kernel: str, case: Case, dtype: torch.dtype) -> float:
    leaves = case.leaves(dtype)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    forward_backward(attention(kernel), leaves, case.mask(kernel))
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def _peak_of_process(kernel: str, case: Case, dtype: torch.dtype, threads: int) -> float:
    """Growth of the largest resident set. A small call comes first, so that loaded code is not counted."""
    torch.set_num_threads(threads)
    small = Case(64, case.heads, case.head_dim, 1, case.device)
    forward_backward(attention(kernel), small.leaves(dtype), small.mask(kernel))
    leaves = case.leaves(dtype)
    # Linux counts the largest set anew from here. (getrusage's figure would start at the parent process' largest.)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    forward_backward(attention(kernel), leaves, case.mask(kernel))
    return _resident("VmHWM") - before


def _resident(name: str) -> float:
    """A figure of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / MIB


def measure(case: Case, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """A line for each kernel: seconds, ratio to the reference and MiB, or why it cannot run."""
    kernels, refused = able(case)
    leaves, device = case.leaves(dtype), torch.device(case.device)
    runs = {k: partial(forward_backward, attention(k), leaves, case.mask(k)) for k in kernels}
    seconds = take_turns(runs, rounds, device)
    lines: list[dict[str, Any]] = []
    for kernel in KERNELS:
        line: dict[str, Any] = {"length": case.length, "kernel": kernel}
        if kernel in refused:
            lines.append({**line, "refused": refused[kernel]})
            continue
        ratio = seconds[kernel] / seconds["reference"]
        memory = peak_memory(kernel, case, dtype)
        lines.append({**line, "seconds": seconds[kernel], "ratio": ratio, "peak_mib": memory})
    return lines


def show(lines: list[dict[str, Any]], console: Console) -> None:
    table = Table("rows", "kernel", "time / reference", "peak memory, MiB")
    for line in lines:
        cells = [line["refused"], ""] if "refused" in line else [f"{line['ratio']:.2f}", f"{line['peak_mib']:.0f}"]
        table.add_row(str(line["length"]), line["kernel"], *cells)
    console.print(table)


def main(
    lengths: Annotated[str, typer.Option(help="Rows, separated by commas.")] = "1024,2048",
    device: Annotated[str, typer.Option(help="cpu (fp32) or cuda (bf16).")] = "cpu",
    heads: Annotated[int, typer.Option(min=1)] = 8,
    head_dim: Annotated[int, typer.Option(min=16, help="Width of a head.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Sequences, each with an order of its own.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each kernel; the median counts.")] = 7,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    lines: list[dict[str, Any]] = []
    for length in map(int, lengths.split(",")):
        lines += measure(Case(length, heads, head_dim, batch, device), dtype, rounds)
    chosen = {
        "heads": heads,
        "head_dim": head_dim,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": rounds,
    }
    report(setting(torch.device(device), **chosen), lines, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
