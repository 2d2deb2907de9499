"""A checkpoint's weights on the processes of any layout, to evaluate or to generate: no optimizer and no gradients."""

from pathlib import Path

import torch

from armd_dist.checkpoint.tensors import open_checkpoint, read_tensors
from armd_dist.config_rules import cross_problems
from armd_dist.errors import ConfigError
from armd_dist.model.network import make_network
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.pipeline import Part
from armd_dist.parallel.sharding import as_piece
from armd_dist.parallel.stages import stages_of
from armd_dist.parallel.topology import Topology
from armd_dist.run import Run

LAYOUT = ("parallel.tensor", "parallel.pipeline")


def open_parallel(
    path: Path, topology: Topology, ema: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Part, Run]:
    """This process' part of the network of a checkpoint, or of a run's newest one, ready to evaluate. Collective.

    A checkpoint of any layout is opened under the topology's tensor and pipeline sizes; each data-parallel process gets
    the whole of its part. Every process reads its own bytes, in `dtype`, and holds nothing else of it. ema: the average
    of the weights in their place. Returns the network in one piece, or the stage of this process, and the settings of
    its run with this layout in the place of that of training (without sequence parallelism). Raises ConfigError where
    the network cannot be laid out so, CheckpointError where it cannot be read, the same on every process.
    """
    checkpoint, trained = open_checkpoint(path, ema)
    run = _laid_out(trained, topology, dtype)
    layers = MegatronLayers(run.parallel)
    part = Part([make_network(run.model, layers, stages_of(run)[topology.pipeline_rank])])
    part.to(topology.device, dtype).eval().requires_grad_(False)
    kind = "ema" if ema else "weight"
    pieces = {f"{kind}/{name}": as_piece(weight.view(-1), weight, start=0) for name, weight in part.weights()}
    read_tensors(checkpoint, pieces)
    return part, run


def _laid_out(run: Run, topology: Topology, dtype: torch.dtype) -> Run:
    """The run under this layout. Raises ConfigError with all that keeps its network from it."""
    layout = {"tensor": topology.tensor_size, "pipeline": topology.pipeline_size}
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"  # in which pipelines send
    there = run.model_copy(
        update={
            "parallel": ParallelConfig.model_validate(layout),
            "training": run.training.model_copy(update={"precision": precision}),
        }
    )
    problems = [problem for problem in cross_problems(there) if problem.path in LAYOUT]
    if problems:
        raise ConfigError(problems)
    return there
