"""Saving and restoring a run's whole state."""

import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import torch.distributed as dist
from torch import Tensor

from armd_dist.checkpoint import folder as checkpoint_folder
from armd_dist.checkpoint.pieces import Piece, stage
from armd_dist.checkpoint.retention import delete, surplus
from armd_dist.checkpoint.tensors import read_tensors
from armd_dist.checkpoint.writing import Written, write_tensors
from armd_dist.config import to_yaml
from armd_dist.errors import CheckpointError, describe
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.progress import beat, enter
from armd_dist.parallel.topology import Topology
from armd_dist.training.batches import Begun
from armd_dist.training.meter import Meter
from armd_dist.training.run_folder import has_average
from data_pipeline.manifest import Manifest

# The watch decides when a write hangs: it sees who writes still, and a collective only that it takes long.
PATIENCE = timedelta(days=7)
LOOK_EVERY_S = 0.5

T = TypeVar("T")


class Saver:
    """Writes checkpoints, one at a time: a thread of its own writes while training goes on, or the loop waits for it.

    Training pauses for a copy to host memory: 12 bytes for each parameter of this process' share, 16 with an average,
    kept for the next save. Where a write fails on any process, all of them raise the same CheckpointError when it
    lands.
    """

    def __init__(self, engine: Engine, manifest: Manifest, newest: int | None = None) -> None:
        """newest: the step of the newest checkpoint, if there is one; kept up to date."""
        self.engine, self.manifest, self.run, self.newest = engine, manifest, engine.run, newest
        self.is_main = engine.topology.is_main
        # The writers talk while training's collectives go their own way.
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        assert isinstance(group, dist.ProcessGroup), "every process is in it"
        self.group = group
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.buffers: dict[str, Tensor] = {}
        self.flying: Future[int] | None = None

    def save(self, step: int, samples: int, position: Position) -> None:
        """Saves the engine's state as checkpoints/step-*/, which exists once all of it is there. Collective.

        samples: consumed so far; position: the curriculum's, of the step to come. Raises CheckpointError where the save
        before this one failed.
        """
        self.land()
        pieces = stage(self.engine.state(), self.buffers)
        state = _training_state(self.engine, self.manifest, Begun(step, samples), position)
        self.written = Written()
        self.flying = self.pool.submit(self._write, state, pieces)
        if not self.run.checkpoint.asynchronous:
            self.land()

    @property
    def ended(self) -> bool:
        """Whether this process' thread has ended a save, well or not, that has yet to land."""
        return self.flying is not None and self.flying.done()

    def land(self) -> None:
        """Waits for the save that goes on, if there is one. Raises CheckpointError where it failed."""
        if self.flying is None:
            return
        flying, self.flying = self.flying, None
        # A process whose part is written is one phase ahead: who writes still is the one that the others wait for.
        enter("writing its part of a checkpoint")
        self._wait(self.written.ended.wait)
        enter("waiting for the others' parts of a checkpoint")
        self._wait(lambda seconds: _finished(flying, seconds))
        self.newest = flying.result()

    def _wait(self, ended: Callable[[float], bool]) -> None:
        """Shows progress as long as bytes are written, and no longer."""
        before = -1
        while not ended(LOOK_EVERY_S):
            if self.written.bytes != before:
                before = self.written.bytes
                beat()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """The last save is finished whatever ends training; an error of its own does not hide training's."""
        try:
            self.land()
        except CheckpointError as failure:
            if error is None:
                raise
            if self.is_main:
                print(f"error: {failure}", file=sys.stderr, flush=True)
        finally:
            self.pool.shutdown()

    def _write(self, state: checkpoint_folder.TrainingState, pieces: dict[str, Piece]) -> int:
        """On the thread of its own, on every process. Returns the step."""
        run_dir = Path(self.run.run.dir)
        partial = checkpoint_folder.partial_folder(run_dir, state.step)
        final = checkpoint_folder.step_folder(run_dir, state.step)
        try:
            self._together(lambda: self._prepare(partial) if self.is_main else None)
            files = self._together(lambda: write_tensors(partial, pieces, self.group, self.written))
            written = {name: one for mine in files for name, one in mine.items()}
            self._together(lambda: self._seal(partial, final, state, written) if self.is_main else None)
            return state.step
        except CheckpointError as error:
            if self.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"{final}: could not be written ({error}); training stops, and the same command continues it from the "
                "checkpoint before once that is mended"
            ) from error
        finally:
            self.written.ended.set()

    def _prepare(self, partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        checkpoint_folder.write_text(partial / "run.yaml", to_yaml(self.run))
        shutil.copyfile(Path(self.run.run.dir) / "tokenizer.model", partial / "tokenizer.model")

    def _seal(
        self,
        partial: Path,
        final: Path,
        state: checkpoint_folder.TrainingState,
        written: dict[str, checkpoint_folder.Sum],
    ) -> None:
        checkpoint_folder.finish(partial, final, state, written)
        settings = self.run.checkpoint
        for old in surplus(Path(self.run.run.dir), settings.keep, settings.keep_every):
            try:
                delete(old)
            except OSError as error:  # the new one is there
                print(f"{old}: could not be deleted ({describe(error)})", file=sys.stderr, flush=True)

    def _together(self, work: Callable[[], T]) -> list[T]:
        """Everyone's result of `work`. Where it fails, all raise the same CheckpointError, which says where and why."""
        mine: tuple[T | None, str | None]
        try:
            mine = work(), None
        except CheckpointError as error:
            mine = None, str(error)
        except Exception as error:
            mine = None, f"rank {self.engine.topology.rank}: {describe(error)}"
        found: list[tuple[T, str | None]] = [(None, None)] * self.engine.topology.world_size  # type: ignore[list-item]
        dist.all_gather_object(found, mine, group=self.group)
        failed = {text for _, text in found if text is not None}
        if failed:
            raise CheckpointError("; ".join(sorted(failed)))
        return [result for result, _ in found]


def _finished(flying: Future[int], seconds: float) -> bool:
    with suppress(Exception):
        flying.result(seconds)
    return flying.done()


def _training_state(
    engine: Engine, manifest: Manifest, begun: Begun, position: Position
) -> checkpoint_folder.TrainingState:
    topology = engine.topology
    return checkpoint_folder.TrainingState(
        step=begun.step,
        consumed_samples=begun.sample,
        seed=engine.run.training.seed,
        phase=position.phase,
        rho=position.rho,
        manifest_hash=manifest.hash(),
        tokenizer_sha256=manifest.tokenizer_sha256,
        topology={
            "world_size": topology.world_size,
            "tensor": topology.tensor_size,
            "pipeline": topology.pipeline_size,
            "data": topology.data_size,
        },
        versions={name: version(name) for name in ("armd-dist", "torch", "megatron-core", "deepspeed")}
        | {"python": platform.python_version()},
        skipped_updates=engine.skipped_updates,
    )


def restore(engine: Engine, checkpoint: Path) -> Begun:
    """Loads a checkpoint of any layout; returns where it stands."""
    state, averaged = checkpoint_folder.read_training_state(checkpoint), has_average(checkpoint)
    places = {key: piece for key, piece in engine.places().items() if averaged or not key.startswith("ema/")}
    fill(places, checkpoint, engine.topology)
    engine.go_on_from(state.updates)
    engine.skipped_updates = state.skipped_updates
    if not averaged:
        engine.begin_average()
    return Begun(state.step, state.consumed_samples)


def fill(places: Mapping[str, Piece], checkpoint: Path, topology: Topology) -> None:
    """Reads these pieces of a checkpoint of any layout, and says how far it is. Collective. Raises CheckpointError."""
    total = sum(place.values.nbytes for place in places.values())
    with Meter(f"loading {checkpoint}", total, topology.is_main) as meter:
        read_tensors(checkpoint, places, meter)
