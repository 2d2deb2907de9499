"""A trained model ready to be scored, on one process or on all processes of a job."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from armd_dist.checkpoint.folder import resolve_checkpoint
from armd_dist.errors import ConfigError, EvaluationError, Problem
from armd_dist.evaluation.scoring import Scorer
from armd_dist.evaluation.team import Team
from armd_dist.export.open import Opened, open_model, settle
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.opening import open_parallel
from armd_dist.parallel.pipeline import Pipeline
from armd_dist.parallel.topology import Topology, joined
from data_pipeline.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Ready:
    """opened: the model with what is known of its training; of a layout of several processes this one's part of it."""

    opened: Opened
    scorer: Scorer
    team: Team


def place(world_size: int, layout: ParallelConfig) -> AbstractContextManager[Topology | None]:
    """Joins the processes of a job of several; None for one alone. Raises ConfigError where the layout does not fit."""
    size = layout.tensor * layout.pipeline
    if world_size % size:
        option = "--tensor-parallel" if layout.tensor > 1 else "--pipeline-parallel"
        rule = f"tensor {layout.tensor} x pipeline {layout.pipeline} does not divide the {world_size} process(es)"
        remedy = f"start a multiple of {size} with torchrun --nproc-per-node"
        raise ConfigError([Problem(option, getattr(layout, option[2:].split("-")[0]), rule, remedy)])
    return joined(layout) if world_size > 1 else nullcontext()


def make_ready(path: Path, topology: Topology | None, device: torch.device, dtype: str, ema: bool = False) -> Ready:
    """The model of a checkpoint or an export, in this dtype. Collective.

    Every data-parallel process, or group of tensor- and pipeline-parallel ones, holds all of it. Raises ArmdError.
    """
    if topology is None or topology.tensor_size * topology.pipeline_size == 1:
        opened = open_model(path, ema)
        settle(opened.network, device, DTYPES[dtype])
        return Ready(opened, Scorer(opened.network), Team() if topology is None else Team.of(topology))
    if (path / "config.json").is_file():
        raise EvaluationError(
            f"{path}: an export is read whole by each process; give the checkpoint, or leave out "
            "--tensor-parallel and --pipeline-parallel"
        )
    part, run = open_parallel(path, topology, ema, DTYPES[dtype])
    network = part.networks[0]
    # Dropout, which alone asks the layers something there, is off.
    pipeline = (
        Pipeline(run, topology.device, MegatronLayers(run.parallel), part) if topology.pipeline_size > 1 else None
    )
    tokenizer = Tokenizer.load(resolve_checkpoint(path) / "tokenizer.model")
    data = run.data
    opened = Opened(network, tokenizer, data.attention, data.sequence_length, run.orders.block_length, ema)
    return Ready(opened, Scorer(network, pipeline), Team.of(topology))
