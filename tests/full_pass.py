"""Nats by one full pass over whole texts: what decoding and evaluation are held against."""

import torch
from torch import Tensor

from armd_dist.model.layout import lay_out
from armd_dist.model.network import Network
from armd_dist.objectives.documents import tokens_before
from armd_dist.objectives.likelihood import token_nll


@torch.no_grad()
def window_nll(
    model: Network, windows: Tensor, positions: Tensor, blocks: Tensor, bos_id: int, eos_id: int | None = None
) -> Tensor:
    """Nats of every token, [windows, tokens] in the order's storage; positions, blocks: [tokens].

    eos_id: the end of a document, for attention within documents; None: across.
    """
    revealed = windows[:, positions - 1]
    before = None if eos_id is None else tokens_before(windows, eos_id)[:, positions - 1]
    layout = lay_out(revealed, positions.expand_as(revealed), blocks.expand_as(revealed), bos_id, before)
    return token_nll(model, layout, revealed).t()
