"""Initial weights as a pure function of (seed, parameter name), so that every layout starts from the same model."""

import hashlib
import math

import torch
from torch import Tensor, nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.parametrization import init_multiplier


def initial_value(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The full fp32 initial value of one parameter, on the CPU.

    Norms are one and biases zero; the neighbour maps are the identity and their distances zero, so that left to right
    the query starts as an AR input, place + previous token, which nothing dilutes (our choice); all else is normal with
    init_std, scaled down by sqrt(2 x num_layers) where a layer writes back into its residual stream, as in GPT-2, and
    under muP by the width. (The identity keeps a vector's scale whatever the width: it is right under muP as it is.)
    """
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
    if name.endswith(".distance.weight"):
        return torch.zeros(shape)
    if name.endswith((".left.weight", ".right.weight")):
        return torch.eye(shape[0])
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
    std = config.init_std / math.sqrt(2 * config.num_layers) if residual else config.init_std
    return torch.randn(shape, generator=generator) * (std * init_multiplier(name, len(shape), config))


def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Initialises a model whose parameters are whole."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(name, tuple(parameter.shape), config, seed))
