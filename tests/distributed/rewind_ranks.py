"""Two processes that go back to a checkpoint in the engine that has gone on from it, for test_rewinding.py.

Under many layouts, by what the loop calls; then one run of `armd train`, whose loss spikes for one process' samples.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from health_ranks import state
from layouts import Trainer, make_run
from torch import Tensor

from armd_dist.checkpoint.folder import step_folder
from armd_dist.config import load_run
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.engines import parallel_state
from armd_dist.parallel.topology import start, stop
from armd_dist.training import loop
from armd_dist.training.saving import Saver, restore

BEFORE, BEHIND = range(3), range(3, 6)
MANIFEST = SimpleNamespace(hash=lambda: "data", tokenizer_sha256="tokenizer")
# Of the step whose loss spikes in the run: its number (0-based), and the rank that has the samples.
SPIKE, SPIKING_RANK, BATCH = 135, 1, 8


class Back(Trainer):
    """Trains on from a checkpoint, and again after it has gone back to it."""

    def again(self) -> dict[str, Any]:
        there, seen = self._save(), {}
        first = self._go_on()
        self._lose_an_update()
        for name in ("once", "twice"):
            restore(self.engine, there)
            seen[name] = {"skipped": self.engine.skipped_updates, "restored": differing(self.saved, state(self))}
            curve, left = self._go_on()
            seen[name] |= {"curve": (curve, first[0]), "left": differing(first[1], left)}
        return seen | {"without_average": self._from_no_average(there)}

    def _save(self) -> Path:
        folder = Path(self.run.run.dir)
        folder.mkdir(exist_ok=True)
        (folder / "tokenizer.model").touch()
        with Saver(self.engine, MANIFEST) as saver:  # type: ignore[arg-type]
            saver.save(len(BEFORE), 8 * len(BEFORE), Position("progressive", 2, 0))
        self.saved = state(self)
        return step_folder(folder, len(BEFORE))

    def _go_on(self) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
        return self.train(BEHIND), state(self)

    def _lose_an_update(self) -> None:
        over_all = self.engine._over_all
        self.engine._over_all = lambda means: (over_all(means)[0] * torch.nan, {})  # type: ignore[method-assign]
        self.train([BEHIND.stop])
        self.engine._over_all = over_all  # type: ignore[method-assign]

    def _from_no_average(self, there: Path) -> list[str]:
        """What differs behind a checkpoint that has no average: it then is the weights."""
        settings = there / "run.yaml"
        dist.barrier()
        if self.topology.is_main:
            settings.write_text(settings.read_text().replace("ema_decay: 0.6", "ema_decay: null"))
        dist.barrier()
        restore(self.engine, there)
        weights = {f"ema/{key.removeprefix('weight/')}": self.saved[key] for key in self.saved if key[:7] == "weight/"}
        return differing(self.saved | weights, state(self))


def differing(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    assert wanted.keys() == found.keys()
    return [key for key in wanted if not torch.equal(wanted[key], found[key])]


def run_layout(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    trainer = Back({**settings, "run.dir": str(folder)})
    trainer.train(BEFORE)
    seen = trainer.again()
    trainer.close()
    return seen


def spike(rank: int) -> None:
    """From now on one process has ten times the loss for its samples of SPIKE."""
    loss_of = Engine._loss

    def spiking(engine: Engine, micro_batch: MicroBatch) -> Loss:
        loss = loss_of(engine, micro_batch)
        mine = rank == SPIKING_RANK and micro_batch.first_sample // BATCH == SPIKE
        return loss._replace(nll=10 * loss.nll) if mine else loss

    Engine._loss = spiking  # type: ignore[method-assign]


def main(layouts: dict[str, dict[str, Any]], out: Path, words: list[str], port: str) -> None:
    rank = int(os.environ["RANK"])
    start(make_run({}).parallel)
    parallel_state.destroy_model_parallel()
    for name, settings in layouts.items():
        (out / f"{name}.{rank}").write_text(json.dumps(run_layout(settings, out / name)))
    stop()
    if words:
        os.environ["MASTER_PORT"] = port
        spike(rank)
        loop.train(load_run(Path(words[0]), words[1:]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
