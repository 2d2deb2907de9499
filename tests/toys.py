"""Tiny models and orders that the tests share: float64, weights large enough that every path shows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import Layout, lay_out
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import (
    any_order,
    block_diffusion,
    in_blocks,
    left_to_right,
    masked_diffusion,
    segments,
    strided,
    tokens,
    window,
)

# Tensors here are too small to share: threads would only wait for one another.
torch.set_num_threads(1)

BOS = 1
CONTEXTS = ["neighbours", "linear", "both", "none"]
VOCAB = 40


def tiny_config(**changes: Any) -> ModelConfig:
    """Four layers of width 16; the vocabulary is padded, and the head is not tied to the embedding."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "max_sequence_length": 24,
        "hidden_size": 16,
        "num_layers": 4,
        "num_attention_heads": 2,
        "ffn_hidden_size": 32,
        "tie_embeddings": False,
        "init_std": 0.3,
        "pad_vocab_to": 16,
    }
    return ModelConfig(**{**settings, **changes})


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any) -> ARMD:
    """A model of `tiny_config(**changes)`. Norms and neighbour maps are moved off one and the identity too."""
    config = tiny_config(**changes)
    model = ARMD(config, PlainLayers())
    initialize(model, config, seed)
    model = model.to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model.to(dtype)


class Rows(NamedTuple):
    """Tokens as (id, place in the text, block), each [batch, rows], in any storage order."""

    ids: Tensor
    positions: Tensor
    blocks: Tensor

    def layout(self) -> Layout:
        return lay_out(self.ids, self.positions, self.blocks, BOS)

    def loss(self, model: ARMD) -> Tensor:
        """The loss that training minimises."""
        return MicroBatch(self.layout(), self.ids).loss(model).objective

    def at(self, index: Tensor) -> "Rows":
        """The rows of these indices, for every sequence."""
        return Rows(*(part[:, index] for part in self))


def rows_of(order: Order, seed: int = 0, vocab: int = VOCAB, batch: int = 1, distinct: bool = False) -> Rows:
    """Random tokens under this order, stored as revealed. `distinct`: no token twice in the batch, none is BOS."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, len(order.position))
    if distinct:
        ids = 2 + torch.randperm(vocab - 2, generator=generator)[: shape[0] * shape[1]].view(shape)
    else:
        ids = torch.randint(vocab, shape, generator=generator)
    places, blocks = (torch.from_numpy(part).expand(shape) for part in (order.position, order.block))
    return Rows(ids, places, blocks)


def behind_prompt(order: Order, prompt: int) -> Order:
    """A prompt shown at once (block 0) in front of this order."""
    places = np.concatenate((np.arange(1, prompt + 1), order.position + prompt))
    return Order(places, np.concatenate((np.zeros(prompt, dtype=np.int64), order.block)))


def block_list(order: Order) -> list[list[int]]:
    """The order as `decode` takes it: places (from 0) of every block."""
    return [(order.position[order.block == block] - 1).tolist() for block in np.unique(order.block)]


Draw = Callable[[np.random.Generator], Order]
SCHEMES: dict[str, Draw] = {
    "left_to_right": lambda draw: left_to_right(9),
    "any_order": lambda draw: any_order(9, draw),
    "segments": lambda draw: segments(9, 3, draw),
    "strided_2": lambda draw: strided(8, 2),
    "strided_2_ragged": lambda draw: strided(9, 2),
    "strided_4": lambda draw: strided(8, 4),
    "strided_4_ragged": lambda draw: strided(11, 4),
    "masked_diffusion": lambda draw: masked_diffusion(9, 4, draw),
    "block_diffusion_ragged": lambda draw: block_diffusion(11, 4, 3, draw),
    "tokens": lambda draw: tokens(9, 4, draw),
    "window_ragged": lambda draw: window(8, 3, draw),
    "segments_in_blocks": lambda draw: in_blocks(segments(9, 3, draw), 2),
    "prompt_then_any": lambda draw: behind_prompt(any_order(6, draw), 3),
    "prompt_then_strided": lambda draw: behind_prompt(strided(7, 2), 3),
}


def scheme(name: str, seed: int = 0) -> Order:
    return SCHEMES[name](np.random.default_rng(seed))
