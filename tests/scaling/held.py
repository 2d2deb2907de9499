"""Run on ranks: the bytes that an engine really holds, each case built anew, as JSON into a file for each process.

live: all tensors when gradients are reduced and the step is still to come, found through Python's garbage collector;
gradients: those on the parameters behind the first of two passes; and the weights and Adam's moments alone.
"""

import gc
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import make_run
from torch import nn

from armd_dist.model.network import make_network
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.orders.schemes import left_to_right
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.sharding import initialize
from armd_dist.parallel.topology import Topology, start, stop
from armd_dist.parallel.zero import settle

CASES: dict[str, tuple[str, int, float | None]] = {
    "fp32 0": ("fp32", 0, None),
    "fp32 1": ("fp32", 1, None),
    "bf16 1": ("bf16", 1, None),
    "bf16 2": ("bf16", 2, None),
    "bf16 3": ("bf16", 3, None),
    "fp32 0 ema": ("fp32", 0, 0.9),
    "bf16 3 ema": ("bf16", 3, 0.9),
}


def tensors() -> list[torch.Tensor]:
    """Every tensor there is, gradients and ZeRO 3's shares with them."""
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    grads = [tensor.grad for tensor in found if tensor.is_leaf]
    shares = [getattr(tensor, "ds_tensor", None) for tensor in found]
    return [tensor for tensor in (*found, *grads, *shares) if tensor is not None]


def size_of(held: Iterable[torch.Tensor], apart: Iterable[torch.Tensor] = ()) -> int:
    """Bytes of their storages, each once, without those of `apart`."""
    others = {tensor.untyped_storage().data_ptr() for tensor in apart}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(size for address, size in storages.items() if address not in others)


def measure(precision: str, stage: int, ema_decay: float | None, topology: Topology) -> dict[str, int]:
    run = make_run(training={"precision": precision, "ema_decay": ema_decay}, parallel={"zero_stage": stage})
    text = torch.randint(3, 500, (2, 64), generator=torch.Generator().manual_seed(0))
    batches = [ordered_batch(text, [left_to_right(64)] * 2, bos_id=1) for _ in range(2)]
    before = tensors()  # kept alive: their addresses must not be used again
    engine = Engine(run, topology)
    found: dict[str, int] = {}
    update, backward = engine._update, engine.zero.backward

    def after_backward(loss: torch.Tensor) -> None:
        backward(loss)
        found.setdefault("gradients", size_of(w.grad for w in engine.part.parameters() if w.grad is not None))

    def before_step(skips: bool) -> float:
        found["live"] = size_of(tensors(), before)
        return update(skips)

    engine._update, engine.zero.backward = before_step, after_backward  # type: ignore[method-assign]
    engine.train_step(batches, 1e-3)
    found["adam_moments"] = size_of(state[name] for state in adam(engine) for name in ("exp_avg", "exp_avg_sq"))
    if stage < 3:
        found["weights"] = size_of(engine.part.parameters())
    return found


def left_whole(stage: int, topology: Topology) -> int:
    """Elements of the modules that have been settled which this process still holds, when the last one's turn comes."""
    run = make_run(parallel={"zero_stage": stage})
    part = Part([make_network(run.model, MegatronLayers(run.parallel))])
    settled: list[nn.Module] = []
    left = []

    def watched() -> Iterator[nn.Module]:
        for module in initialize(part, run.model, seed=0):
            left.append(sum(parameter.numel() for earlier in settled for parameter in earlier.parameters()))
            yield module
            settled.append(module)

    settle(watched(), run, topology.device)
    return max(left)


def adam(engine: Engine) -> Any:
    optimizer = engine.zero.optimizer
    return getattr(optimizer, "optimizer", optimizer).state.values()


if __name__ == "__main__":
    place = start(make_run().parallel)
    measured_cases = {name: measure(*case, place) for name, case in CASES.items()}
    measured_cases["left whole"] = {str(stage): left_whole(stage, place) for stage in (2, 3)}
    (Path(sys.argv[1]) / f"{place.rank}.json").write_text(json.dumps(measured_cases))
    stop()
