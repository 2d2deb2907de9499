"""Reads the tensors of a checkpoint, through torch.distributed.checkpoint, in any layout.

Names are global: `weight/NAME`, `exp_avg/NAME`, `exp_avg_sq/NAME`, all fp32. A tensor says which part of the whole it
is (DTensor), so another number of processes, or a single one, reads the same checkpoint.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from armd_dist.checkpoint.folder import STATE_DIR, resolve_checkpoint
from armd_dist.config import load_run
from armd_dist.errors import CheckpointError
from armd_dist.model.layers import PlainLayers
from armd_dist.model.network import Network, make_network
from armd_dist.run import Run

VOCABULARY = {"tokens.weight", "head.weight"}  # the parameters with a row for each token


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fills the given parts in place. Collective. Raises CheckpointError where the checkpoint is of another model."""
    _load(folder, into, alone=False)


def read_alone(folder: Path, into: dict[str, Tensor]) -> None:
    """Fills whole tensors on this process alone, without a process group. Raises CheckpointError."""
    _load(folder, into, alone=True)


def load_model(path: Path, ema: bool = False) -> tuple[Network, Run, Path]:
    """The model of a checkpoint (or of a run's newest one) on this process alone, in fp32, ready to evaluate.

    ema: the average of its weights in their place. The vocabulary's padding, which only tensor parallelism needs, is
    left out. Returns (model, the run's settings, the checkpoint folder). Raises CheckpointError.
    """
    checkpoint = resolve_checkpoint(path)
    run = load_run(checkpoint / "run.yaml")
    if ema and run.training.ema_decay is None:
        raise CheckpointError(
            f"--ema: {checkpoint} holds no average of the weights (it was saved with training.ema_decay=null); "
            "leave out --ema, or go on training with training.ema_decay=0.9999"
        )
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


def _load(folder: Path, into: dict[str, Tensor], alone: bool) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to .* in a single process.*")
            load(into, checkpoint_id=folder / STATE_DIR, no_dist=alone)
    except (CheckpointException, RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{folder}: cannot be loaded into this model ({reason})") from error
