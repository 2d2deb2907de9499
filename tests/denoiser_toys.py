"""A tiny denoiser, and the loss that training makes of it, averaged over everything that training may draw."""

import itertools
from typing import Any

import torch
from torch import Tensor
from toys import BOS, tiny_config

from armd_dist.model.denoiser import Denoiser
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import token_nll
from armd_dist.objectives.masked_diffusion import masked_batch


def tiny_denoiser(**changes: Any) -> Denoiser:
    config = tiny_config(network="denoiser", num_layers=2, **changes)
    model = Denoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.double()


@torch.no_grad()
def mean_loss(model: Denoiser, text: Tensor, window: int) -> float:
    """The weighted sum of nats, averaged over every masking with its probability: in each window the number of hidden
    tokens is uniform, and so is their set."""
    total = 0.0
    for hidden in itertools.product([False, True], repeat=len(text)):
        chance = 1.0
        for start in range(0, len(text), window):
            part = hidden[start : start + window]
            chance *= (sum(part) > 0) / len(part) / _choose(len(part), sum(part))
        if chance:
            masked = torch.tensor(hidden)[None]
            batch = masked_batch(text[None], masked, window, BOS)
            assert batch.weights is not None
            nll = token_nll(model, batch.layout, batch.targets)
            total += chance * (nll * batch.weights.t()).sum().item()
    return total


def _choose(n: int, k: int) -> int:
    return len(list(itertools.combinations(range(n), k)))
