"""What the timings share: candidates that take turns in one process, and the setting that stands beside a figure."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import typer
from experiment import write_json
from rich.console import Console

from armd_dist.errors import ArmdError
from data_pipeline.errors import DataError


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each candidate. Each has its turn in every round, so that a busy moment meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            wait_for(device)
            began = time.perf_counter()
            run()
            wait_for(device)
            if number:  # the first round warms up
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def setting(device: torch.device, **chosen: object) -> dict[str, Any]:
    """What a figure needs beside it to mean something."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "torch": torch.__version__,
        "device": device.type,
        "machine": f"{kind}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        **chosen,
    }


def report(facts: dict[str, Any], results: Any, show: Callable[[Any, Console], None], out: Path | None) -> None:
    """Prints the setting and what `show` makes of the results, and writes both where the user asked for a file."""
    console = Console(width=120)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()))
    show(results, console)
    if out is not None:
        write_json(out, {"setting": facts, "results": results})


def run_command(main: Callable[..., None], about: str | None = None) -> None:
    """Runs a benchmark's command line. An error that the user can mend is printed without a traceback.

    about: its help, where `main` has no docstring of its own.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(help=about)(main)
    try:
        app()
    except (ArmdError, DataError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(2)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
