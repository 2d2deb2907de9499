"""Training speed of several models, side by side in one process.

Runs that train in parallel disturb one another, so their tokens per second say little. Here the models take turns, a
step each, in many rounds; the median over rounds is compared.
"""

import os
import statistics
import time
from typing import Any

import torch
from turns import wait_for

from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import Network, make_network
from armd_dist.run import Run
from armd_dist.training.batches import Batches
from armd_dist.training.start import open_data

WARMUP_ROUNDS = 2


def measure(runs: dict[str, Run], rounds: int) -> dict[str, Any]:
    """{name: seconds of a step (drawing, forward, backward), all rounds}, one thread; and the machine's load.

    Rounds are spread over each run's steps, so that every phase of its curriculum has its part.
    """
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {name: _model(run).to(device) for name, run in runs.items()}
    batches = {name: _batches(run) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(WARMUP_ROUNDS + rounds):
        for name, run in runs.items():
            step = max(0, count - WARMUP_ROUNDS) * run.training.steps // rounds
            taken = _step(models[name], batches[name], step, device, run.training.precision == "bf16")
            if count >= WARMUP_ROUNDS:
                seconds[name].append(taken)
    return {
        "seconds_per_step": seconds,
        "tokens_per_second": {
            name: runs[name].training.global_batch_size * runs[name].data.sequence_length / statistics.median(taken)
            for name, taken in seconds.items()
        },
        "load_average": os.getloadavg(),
        "device": str(device),
        "threads": 1,
    }


def _model(run: Run) -> Network:
    model = make_network(run.model, PlainLayers())
    initialize(model, run.model, run.training.seed)
    return model


def _batches(run: Run) -> Batches:
    return Batches(run, open_data(run), 0, 1)


def _step(model: Network, batches: Batches, step: int, device: torch.device, bf16: bool) -> float:
    """Seconds of one global batch: its tokens, orders and layout, forward and backward.

    Training draws a batch where it computes, so tokens a second without it would be of no run.
    """
    wait_for(device)
    began = time.perf_counter()
    for micro_batch in [batch.to(device) for batch in batches.at(step)]:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            objective = micro_batch.loss(model).objective
        objective.backward()
    wait_for(device)
    taken = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return taken
