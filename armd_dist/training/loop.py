"""The training loop."""

import math
import sys
from contextlib import nullcontext
from pathlib import Path

from armd_dist.checkpoint.folder import complete_checkpoints
from armd_dist.errors import TrainingError
from armd_dist.parallel.engine import Engine, StepResult
from armd_dist.parallel.progress import enter
from armd_dist.parallel.topology import Topology, start, stop
from armd_dist.parallel.watch import Watch
from armd_dist.run import Run
from armd_dist.training.batches import Batches, Begun
from armd_dist.training.metrics import Metrics, StepMetrics, Stopwatch
from armd_dist.training.saving import Saver, restore
from armd_dist.training.schedule import learning_rate
from armd_dist.training.start import agree_on_start, check_data, open_data, open_ledger
from armd_dist.training.validation import Validation
from armd_dist.training.weights_from import begin_with


def train(run: Run) -> None:
    """Trains to training.stop_at or the end, from wherever the run's folder stands. Every process calls it."""
    topology = start(run.parallel)
    try:
        with Watch(topology.rank, topology.world_size, run.parallel.timeout_minutes):
            _train(run, topology)
    finally:
        # One that fails alone does not wait for others, who may wait for it in a collective.
        if topology.world_size == 1 or sys.exc_info()[0] is None:
            stop()


def _train(run: Run, topology: Topology) -> None:
    enter("opening the data")
    data = open_data(run)
    validation = Validation(run, data, topology) if run.validation.path is not None else None
    enter("looking into the run folder")
    origin, weights, notes = agree_on_start(run, topology, data)
    enter("making or loading the model")
    engine = Engine(run, topology)
    if weights is not None:
        begin_with(engine, weights)
    begun = restore(engine, origin) if origin is not None else Begun(0, 0)
    first, last = begun.step, run.training.stop_at or run.training.steps
    for note in notes:
        _say(topology, note)
    if first >= last:
        _say(topology, f"nothing to do: {run.run.dir} stands at step {first}, and {last} were asked for")
        return
    _say(topology, f"{engine.num_parameters():,} parameters, {topology}, steps {first} to {last}")
    batches = Batches(run, data, topology.data_rank, topology.data_size, begun)
    ledger, check = open_ledger(run, topology, data, begun), check_data(data)
    watch = Stopwatch(run.training.global_batch_size * run.data.sequence_length)
    saver = Saver(engine, data.manifest)
    with Metrics(run, first, last) if topology.is_main else nullcontext() as metrics, saver:
        enter("reading data", step=first + 1)
        for step, micro_batches in enumerate(batches.from_step(first, last), start=first):
            enter("training")
            rate = learning_rate(run.training, step)
            result = engine.train_step(micro_batches, rate)
            _refuse_non_finite(run, result, step)
            check.raise_if_damaged()
            speed, held_out = watch.lap(), None
            if validation is not None and validation.due(step + 1, last=step + 1 == last):
                enter("measuring the validation loss")
                held_out = validation.loss(engine)
                watch.lap()
            enter("writing metrics")
            if metrics is not None:
                metrics.log(_describe(run, step, batches, rate, result, speed, held_out))
            saves = (step + 1) % run.checkpoint.every == 0 or step + 1 == last
            batches.record(ledger, step, saves)
            if saves:
                enter("saving a checkpoint")
                saver.save(step + 1, batches.consumed_samples(step + 1), batches.position(step + 1))
                watch.lap()  # the next step's speed is not that of saving
            saver.check()
            enter("reading data", step=step + 2)
        enter("finishing")


def _describe(
    run: Run, step: int, batches: Batches, rate: float, result: StepResult, speed: float, held_out: float | None
) -> StepMetrics:
    position = batches.position(step)
    return StepMetrics(
        step=step + 1,
        loss=result.loss,
        grad_norm=result.grad_norm,
        learning_rate=rate,
        consumed_samples=batches.consumed_samples(step + 1),
        tokens_per_second=speed,
        phase=position.phase,
        rho=position.rho,
        datasets=batches.consumed(step + 1),
        validation_loss=held_out,
    )


def _refuse_non_finite(run: Run, result: StepResult, step: int) -> None:
    if math.isfinite(result.loss) and math.isfinite(result.grad_norm):
        return
    lower = f"training.learning_rate={run.training.learning_rate / 2:g}, or with a lower training.clip_grad"
    found = complete_checkpoints(Path(run.run.dir))
    remedy = f"go on with checkpoint.resume={found[-1]} {lower}" if found else f"start in another run.dir with {lower}"
    raise TrainingError(f"step {step + 1}: loss={result.loss}, grad_norm={result.grad_norm}; {remedy}")


def _say(topology: Topology, text: str) -> None:
    """Prints once, from the main process."""
    if topology.is_main:
        print(text, file=sys.stderr, flush=True)
