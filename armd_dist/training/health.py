"""Is a run in good health? Looks at each step: numbers that are lost, replicas that differ, losses that spike."""

import sys
from collections.abc import Sequence
from pathlib import Path

from armd_dist.checkpoint.folder import complete_checkpoints
from armd_dist.errors import TrainingError
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.engine import Engine, StepResult
from armd_dist.parallel.progress import enter
from armd_dist.parallel.replicas import differing_replicas
from armd_dist.run import Run
from armd_dist.training.rewind import Rewind, Rewinds
from armd_dist.training.saving import Saver
from armd_dist.training.spikes import Spikes


class Health:
    """What is told of each step, and when training stops. Every process looks at every step."""

    def __init__(self, engine: Engine, saver: Saver, first: int) -> None:
        """first: steps that were finished before this start; metrics.jsonl ends with them."""
        self.engine, self.saver, self.run, self.first = engine, saver, engine.run, first
        self.is_main = engine.topology.is_main
        self.in_a_row = 0
        self.rewinds = Rewinds(self.run)
        self.go_back()

    def go_back(self) -> None:
        """Takes the losses that are usual from metrics.jsonl, as it stands."""
        factor = self.run.health.spike_factor
        # The main process alone tells, and has the metrics to begin with.
        file = Path(self.run.run.dir) / "metrics.jsonl"
        self.spikes = Spikes.from_metrics(factor, file) if self.is_main and factor is not None else None

    def look(self, step: int, position: Position, result: StepResult, micro_batches: Sequence[MicroBatch]) -> bool:
        """Looks at what a `step` (0-based) came to. Returns whether its loss spikes, on the main process.

        Raises TrainingError, on all processes, where too many updates in a row were skipped. Collective.
        """
        if result.finite:
            self.in_a_row = 0
        else:
            self._skipped(step, result, micro_batches)
        spike = self.spikes.note((position.phase, position.rho), result.loss) if self.spikes else None
        if spike:
            self._say(f"step {step + 1}: {spike} (health.spike_factor={self.run.health.spike_factor:g})")
        return spike is not None

    def way_back(self, step: int, samples: int) -> Rewind | None:
        """Where to go on after a spike in `step` (0-based), which had consumed `samples`; None: as if nothing had been.

        Raises TrainingError, on all processes, where going back has not helped. Collective.
        """
        if not self.run.health.rewind:
            return None
        self.saver.land()
        back, said = self.rewinds.find(step, samples, self.saver.newest)
        self._say(said)
        return back

    def _skipped(self, step: int, result: StepResult, micro_batches: Sequence[MicroBatch]) -> None:
        self.in_a_row += 1
        enter("looking for what is not finite")
        again, culprit = self.engine.repeat(micro_batches)
        if culprit is not None:
            why = str(culprit)
        elif again.finite:
            why = "not reproduced when the step was repeated: suspect the hardware"
        else:
            why = "each process' own gradients are finite, but not their sum or its norm"
        lost = f"step {step + 1}: loss={result.loss:g}, grad_norm={result.grad_norm:g}"
        if self.in_a_row <= self.run.health.max_skipped:
            self._say(f"{lost}: update skipped ({self.engine.skipped_updates} so far): {why}")
            return
        self.saver.land()  # what is being written will be the newest checkpoint
        limit = f"{self.in_a_row} in a row, health.max_skipped={self.run.health.max_skipped}"
        raise TrainingError(f"{lost} ({limit}): {why}; {way_on(self.run)}")

    def compare_replicas(self, step: int, saves: bool) -> None:
        """Compares what several processes hold, where that is due after `step` (0-based), and before one that `saves`.

        Raises TrainingError, on all processes, where the bits differ. Collective.
        """
        every = self.run.health.replicas_every
        if not every or not (saves or step == self.first or (step + 1) % every == 0):
            return
        enter("comparing replicas")
        if (found := differing_replicas(self.engine.part, self.engine.topology)) is None:
            return
        raise TrainingError(
            f"step {step + 1}: {found}: a fault of memory, of a processor or of the network. Nothing of this step was "
            "saved; leave that machine out, and the same command goes on from the newest checkpoint. Where it comes "
            "again without that machine, no machine is at fault: health.replicas_every=0 leaves the comparison out"
        )

    def _say(self, text: str) -> None:
        if self.is_main:
            print(text, file=sys.stderr, flush=True)


def way_on(run: Run) -> str:
    """What to do where numbers are lost for good."""
    lower = f"training.learning_rate={run.training.learning_rate / 2:g}, or with a lower training.clip_grad"
    found = complete_checkpoints(Path(run.run.dir))
    return f"go on with checkpoint.resume={found[-1]} {lower}" if found else f"start in another run.dir with {lower}"
