"""Loads a checkpoint's tensors into whatever layout wants them, and a whole model on one process.

Names are global: `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME` and, where there is an average, `ema/NAME`, all fp32.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from armd_dist.checkpoint.folder import resolve_checkpoint
from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.reading import read_pieces
from armd_dist.config import load_run
from armd_dist.errors import CheckpointError
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import Network, make_network
from armd_dist.run import Run

VOCABULARY = {"tokens.weight", "head.weight"}  # the parameters with a row for each token


def read_tensors(folder: Path, into: Mapping[str, Piece], advance: Callable[[int], object] = lambda _: None) -> None:
    """Fills every process' pieces in place; `advance` is told of the bytes of this one's. Collective.

    Raises the same CheckpointError everywhere, where any process could not be served.
    """
    problem = None
    try:
        read_pieces(folder, into, advance)
    except CheckpointError as error:
        problem = str(error)
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem)
    if found := {each for each in problems if each is not None}:
        raise CheckpointError("\n".join(sorted(found)))


def read_alone(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fills whole tensors, contiguous ones, on this process alone, without a process group. Raises CheckpointError."""
    read_pieces(folder, {name: Piece.of_whole(tensor) for name, tensor in into.items()})


def open_checkpoint(path: Path, ema: bool = False) -> tuple[Path, Run]:
    """A checkpoint, or a run's newest one, and its run's settings. Raises CheckpointError, also where `ema` asks for an
    average that it does not hold."""
    checkpoint = resolve_checkpoint(path)
    run = load_run(checkpoint / "run.yaml")
    if ema and run.training.ema_decay is None:
        raise CheckpointError(
            f"--ema: {checkpoint} holds no average of the weights (it was saved with training.ema_decay=null); "
            "leave out --ema, or go on training with training.ema_decay=0.9999"
        )
    return checkpoint, run


def load_model(path: Path, ema: bool = False) -> tuple[Network, Run, Path]:
    """The model of a checkpoint (or of a run's newest one) on this process alone, in fp32, ready to evaluate.

    ema: the average of its weights in their place. The vocabulary's padding, which only tensor parallelism needs, is
    left out. Returns (model, the run's settings, the checkpoint folder). Raises CheckpointError.
    """
    checkpoint, run = open_checkpoint(path, ema)
    part = "ema" if ema else "weight"
    model = make_network(run.model.model_copy(update={"pad_vocab_to": 1}), PlainLayers())
    weights = {
        f"{part}/{name}": torch.empty(run.model.padded_vocab_size, run.model.hidden_size)
        if name in VOCABULARY
        else parameter.data
        for name, parameter in model.named_parameters()
    }
    read_alone(checkpoint, weights)
    for name in VOCABULARY & dict(model.named_parameters()).keys():
        model.get_parameter(name).data.copy_(weights[f"{part}/{name}"][: run.model.vocab_size])
    return model.eval().requires_grad_(False), run, checkpoint
