"""Saving and restoring a run's whole state."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch.distributed as dist

from armd_dist.checkpoint import folder as checkpoint_folder
from armd_dist.checkpoint.tensors import read_tensors, write_tensors
from armd_dist.config import to_yaml
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.engine import Engine
from armd_dist.parallel.progress import beat
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run
from data_pipeline.manifest import Manifest


def save_checkpoint(engine: Engine, manifest: Manifest, step: int, position: Position) -> None:
    """Writes checkpoints/step-*/ with every process' part; it exists once all of it is there. Collective.

    position: the curriculum's, of the step to come.
    """
    run, topology = engine.run, engine.topology
    run_dir = Path(run.run.dir)
    partial = checkpoint_folder.partial_folder(run_dir, step)
    if topology.is_main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / "run.yaml").write_text(to_yaml(run))
        shutil.copyfile(run_dir / "tokenizer.model", partial / "tokenizer.model")
    dist.barrier()
    write_tensors(partial, engine.state())
    beat()
    dist.barrier()
    if topology.is_main:
        state = _training_state(run, topology, manifest, step, position)
        checkpoint_folder.finish(partial, checkpoint_folder.step_folder(run_dir, step), state)
        checkpoint_folder.keep_newest(run_dir, run.checkpoint.keep)
    dist.barrier()


def _training_state(
    run: Run, topology: Topology, manifest: Manifest, step: int, position: Position
) -> checkpoint_folder.TrainingState:
    return checkpoint_folder.TrainingState(
        step=step,
        consumed_samples=step * run.training.global_batch_size,
        seed=run.training.seed,
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
    )


def restore(engine: Engine, checkpoint: Path) -> int:
    """Loads a checkpoint of any layout; returns the step it stands at."""
    state = engine.empty_state()
    read_tensors(checkpoint, state)
    step = checkpoint_folder.read_training_state(checkpoint).step
    engine.load_state(step, state)
    return step
