"""What the timings share: candidates that take turns in one process, and the setting that stands beside a figure."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def take_turns(candidates: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each candidate. Each has its turn in every round, so that a busy moment meets all of them."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            _wait(device)
            began = time.perf_counter()
            run()
            _wait(device)
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


def write_json(out: Path | None, content: dict[str, Any]) -> None:
    """Writes the figures where the user asked for a file."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=2) + "\n")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
