"""The training loop."""

import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from armd_dist.checkpoint.folder import read_training_state, step_folder
from armd_dist.errors import Stopped
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.parallel.engine import Engine, StepResult
from armd_dist.parallel.heart import Heart
from armd_dist.parallel.progress import enter
from armd_dist.parallel.topology import Topology, start, stop
from armd_dist.parallel.watch import Watch
from armd_dist.run import Run
from armd_dist.training.batches import Batches, Begun
from armd_dist.training.curves import Curves
from armd_dist.training.health import Health
from armd_dist.training.metrics import Metrics, StepMetrics, Stopwatch
from armd_dist.training.profiling import Profiler
from armd_dist.training.rewind import Rewind
from armd_dist.training.run_lock import RunLock
from armd_dist.training.saving import Saver, restore
from armd_dist.training.schedule import learning_rate
from armd_dist.training.start import agree_on_start, check_data, open_data, open_ledger
from armd_dist.training.stopping import StopSignals, agree
from armd_dist.training.validation import Validation
from armd_dist.training.weights_from import begin_with
from data_pipeline.background_check import BackgroundCheck
from data_pipeline.ledger import RankLedger


def train(run: Run) -> None:
    """Trains to training.stop_at or the end, from wherever the run's folder stands. Every process calls it.

    Raises Stopped, on every process, where a signal asked for an end before that: a checkpoint has been saved.
    """
    topology = start(run.parallel)
    # Outside of the watch, whose last heartbeat is written while the folder is still this job's.
    with StopSignals(topology.world_size) as signals, RunLock(Path(run.run.dir)) as lock, Curves() as curves:
        timeout, ends_early = run.parallel.timeout_minutes, signals.would_end
        try:
            with Watch(topology.rank, topology.world_size, timeout, ends_early) as guard:
                stopped = _train(run, topology, guard, lock, signals, curves)
                guard.stopped_by = stopped and stopped.signal
        finally:
            # One that fails alone does not wait for others, who may wait for it in a collective.
            if topology.world_size == 1 or sys.exc_info()[0] is None:
                stop()
    if stopped is not None:
        raise stopped


def _train(
    run: Run, topology: Topology, guard: Watch, lock: RunLock, signals: StopSignals, curves: Curves
) -> Stopped | None:
    enter("opening the data")
    data = open_data(run)
    validation = Validation(run, data, topology) if run.validation.path is not None else None
    enter("looking into the run folder")
    origin, weights, notes = agree_on_start(run, topology, data, lock)
    first = read_training_state(origin).step if origin is not None else 0
    last = run.training.stop_at or run.training.steps
    guard.claimed(Path(run.run.dir), first, last)
    enter("making or loading the model")
    engine = Engine(run, topology)
    if weights is not None:
        begin_with(engine, weights)
    begun = restore(engine, origin) if origin is not None else Begun(0, 0)
    for note in notes:
        _say(topology, note)
    if first >= last:
        _say(topology, f"nothing to do: {run.run.dir} stands at step {first}, and {last} were asked for")
        return None
    _say(topology, f"{engine.num_parameters():,} parameters, {topology}, steps {first} to {last}")
    check = check_data(data)
    with (
        Metrics(run, first, last, curves) if topology.is_main else nullcontext() as metrics,
        Saver(engine, data.manifest, newest=first if origin is not None else None) as saver,
        Profiler(run, topology) as profiler,
    ):
        health = Health(engine, saver, first)
        while True:
            batches = Batches(run, data, topology.data_rank, topology.data_size, begun)
            ledger = open_ledger(run, topology, data, begun)
            loop = Loop(engine, batches, validation, check, ledger, saver, metrics, guard.heart, health, profiler)
            ended = loop.run(begun.step, last, signals)
            if not isinstance(ended, Rewind):
                return ended
            enter("going back to a checkpoint")
            restore(engine, ended.checkpoint)
            begun = ended.begun
            if metrics is not None:
                metrics.go_back(begun.step)
            health.go_back()


@dataclass
class Loop:
    """What every step needs."""

    engine: Engine
    batches: Batches
    validation: Validation | None
    check: BackgroundCheck
    ledger: RankLedger | None
    saver: Saver
    metrics: Metrics | None
    heart: Heart | None
    health: Health
    profiler: Profiler

    def run(self, first: int, last: int, signals: StopSignals) -> Stopped | Rewind | None:
        """Steps `first` to `last` - 1 (0-based). Where a signal or a spike comes first: where to go on."""
        config = self.engine.run
        self.watch = Stopwatch(config.training.global_batch_size * config.data.sequence_length)
        enter("reading data", step=first + 1)
        for step, micro_batches in enumerate(self.batches.from_step(first, last), start=first):
            with self.profiler.step(step + 1):
                spikes = self._step(step, micro_batches, last=step + 1 == last)
            agreed = agree(signals.received, self.saver.ended, spikes)
            if agreed.written:
                self.saver.land()
            if agreed.spikes and (back := self.health.way_back(step, self.batches.consumed_samples(step + 1))):
                self.batches.record(self.ledger, step, saved=True)
                return back
            saves = (step + 1) % config.checkpoint.every == 0 or step + 1 == last or agreed.signal != 0
            self.health.compare_replicas(step, saves)
            self.batches.record(self.ledger, step, saves)
            if saves:
                self._save(step + 1)
            if agreed.signal and step + 1 < last:
                self.saver.land()
                return Stopped(step + 1, agreed.signal, step_folder(Path(config.run.dir), step + 1))
            self.profiler.after(step + 1)
            enter("reading data", step=step + 2)
        enter("finishing")
        return None

    def _step(self, step: int, micro_batches: list[MicroBatch], last: bool) -> bool:
        """Trains, measures and tells; whether the loss spikes, on the main process."""
        enter("training")
        run = self.engine.run
        rate = learning_rate(run.training, step)
        result = self.engine.train_step(micro_batches, rate)
        spikes = self.health.look(step, self.batches.position(step), result, micro_batches)
        self.check.raise_if_damaged()
        speed, held_out = self.watch.lap(), None
        if self.validation is not None and self.validation.due(step + 1, last):
            enter("measuring the validation loss")
            held_out = self.validation.loss(self.engine)
            self.watch.lap()
        enter("writing metrics")
        if self.metrics is not None:
            self.metrics.log(
                _describe(step, self.batches, rate, result, speed, held_out, self.engine.skipped_updates, spikes)
            )
        if self.heart is not None:
            self.heart.report(step + 1, _finite(result.loss), speed)
        return spikes

    def _save(self, step: int) -> None:
        enter("saving a checkpoint")
        self.saver.save(step, self.batches.consumed_samples(step), self.batches.position(step))
        self.watch.lap()  # the next step's speed is not that of saving


def _describe(
    step: int,
    batches: Batches,
    rate: float,
    result: StepResult,
    speed: float,
    held_out: float | None,
    skipped: int,
    spikes: bool,
) -> StepMetrics:
    position = batches.position(step)
    return StepMetrics(
        step=step + 1,
        loss=_finite(result.loss),
        grad_norm=_finite(result.grad_norm),
        learning_rate=rate,
        consumed_samples=batches.consumed_samples(step + 1),
        tokens_per_second=speed,
        phase=position.phase,
        rho=position.rho,
        datasets=batches.consumed(step + 1),
        skipped_updates=skipped,
        validation_loss=held_out,
        loss_spike=1 if spikes else None,
        learned_order={name: value for name, value in result.figures.items() if math.isfinite(value)} or None,
    )


def _finite(value: float) -> float | None:
    """JSON knows no other numbers."""
    return value if math.isfinite(value) else None


def _say(topology: Topology, text: str) -> None:
    """Prints once, from the main process."""
    if topology.is_main:
        print(text, file=sys.stderr, flush=True)
