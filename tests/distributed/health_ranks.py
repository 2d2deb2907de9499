"""Four processes that lose numbers and flip bits under many layouts, for test_health.py.

One process imports the engines and forks all of them. Each writes what it saw under each layout.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from layouts import Trainer, make_run, micro_batches
from ranks import free_port
from torch import Tensor

from armd_dist.checkpoint.pieces import stage
from armd_dist.parallel.engines import parallel_state
from armd_dist.parallel.replicas import differing_replicas
from armd_dist.parallel.topology import start, stop

WORLD, BAD = 4, 2
WEIGHT = "two_stream.0.mlp.up.weight"  # in the first stage of a pipeline


class Poison:
    """NaN in one element of a weight's gradient on this process, in its second backward pass, as long as it is on."""

    def __init__(self, trainer: Trainer) -> None:
        self.on, self.passes = False, 0
        dict(trainer.engine.part.weights())[WEIGHT].register_hook(self.spoil)

    def spoil(self, gradient: Tensor) -> Tensor | None:
        self.passes += 1
        if not self.on or self.passes % 2:
            return None
        spoilt = gradient.clone()
        spoilt.view(-1)[3] = torch.nan
        return spoilt


class Bad(Trainer):
    """Loses its numbers in step BAD: in a gradient, for good and once, and in the loss alone."""

    def lose(self, rank: int) -> dict[str, Any]:
        engine, mine = self.engine, self.topology.rank == rank
        parts = micro_batches(self.run, BAD, self.topology.data_rank, self.topology.data_size)
        poison = Poison(self) if mine else None
        if poison is not None:
            poison.on = True
        finite = [engine.train_step(parts, 1e-3).finite]
        again, culprit = engine.repeat(parts)
        named = str(culprit)
        finite += [again.finite, engine.train_step(parts, 1e-3).finite]
        if poison is not None:
            poison.on = False
        again, culprit = engine.repeat(parts)
        over_all = engine._over_all
        engine._over_all = lambda means: (over_all(means)[0] * torch.nan, {})  # type: ignore[method-assign]
        finite.append(engine.train_step(parts, 1e-3).finite)
        engine._over_all = over_all  # type: ignore[method-assign]
        once = (again.finite, str(culprit))
        return {"finite": finite, "named": named, "once": once, "skipped": engine.skipped_updates}

    def flip(self, rank: int, weight: str) -> str | None:
        """What is said of the replicas where the lowest bit of one element differs on one process."""
        held = dict(self.engine.part.weights())
        mine = self.topology.rank == rank
        bits = held[weight].data.flatten() if mine else torch.zeros(1)
        bits = bits.view({2: torch.int16, 4: torch.int32}[bits.element_size()])
        bits[-1] ^= 1
        said = differing_replicas(self.engine.part, self.topology)
        bits[-1] ^= 1
        return said


def state(trainer: Trainer) -> dict[str, Tensor]:
    values = {key: piece.values.clone() for key, piece in stage(trainer.engine.state(), {}).items()}
    optimizer = trainer.engine.zero.optimizer
    steps = {float(adam["step"]) for adam in getattr(optimizer, "optimizer", optimizer).state.values()}
    held = {f"held/{name}": parameter.detach().clone() for name, parameter in trainer.engine.part.weights()}
    return {**values, **held, "steps": torch.tensor(sorted(steps))}


def run_layout(settings: dict[str, Any], bad_rank: int, flips: list[tuple[int, str]]) -> dict[str, Any]:
    bad = Bad({"training.micro_batch_size": 1, **settings})
    before = bad.train(range(BAD))
    seen = bad.lose(bad_rank)
    curve, left = before + bad.train([3, 4]), state(bad)
    seen["replicas"] = differing_replicas(bad.engine.part, bad.topology)
    seen["flips"] = [bad.flip(*flip) for flip in flips]
    bad.close()
    clean = Trainer({"training.micro_batch_size": 1, **settings})
    wanted = clean.train(range(BAD)) + clean.train([3, 4])
    there = state(clean)
    clean.close()
    seen["curve"] = (curve, wanted)
    seen["steps"] = left["steps"].tolist()
    seen["differ"] = [key for key in there if not torch.equal(left[key], there[key])]
    return seen


def work(layouts: dict[str, tuple[dict[str, Any], int, list[tuple[int, str]]]], out: Path, rank: int) -> None:
    start(make_run({}).parallel)
    parallel_state.destroy_model_parallel()
    for name, layout in layouts.items():
        (out / f"{name}.{rank}").write_text(json.dumps(run_layout(*layout)))
    stop()


def main(layouts: dict[str, Any], out: Path) -> None:
    port, children = free_port(), []
    for rank in range(WORLD):
        if child := os.fork():
            children.append(child)
            continue
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        code = 1
        try:
            work(layouts, out, rank)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
