"""What the query stream starts from: G0 = P + C, with C built from strictly earlier tokens only."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from armd_dist.model.attention import KeyValueCache
from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import Layers
from armd_dist.model.layout import Layout
from armd_dist.model.neighbours import NOTHING
from armd_dist.model.shapes import Hidden, KeyHidden
from armd_dist.model.visibility import Mask


class NeighbourContext(nn.Module):
    """C_n = Ul (E[left token] + D[distance]) + Ur (E[right token] + D[distance]); our choice.

    Left to right this is an AR model's input: the previous token. D[0] stands for "nothing to the right".
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        self.own_rows = layers.own_rows
        self.left = layers.whole(config.hidden_size, config.hidden_size)
        self.right = layers.whole(config.hidden_size, config.hidden_size)
        self.distance = layers.position_embedding(config.max_sequence_length + 1, config.hidden_size)

    def forward(
        self, layout: Layout, content: KeyHidden, embed: nn.Module, positions: nn.Module, cache: KeyValueCache | None
    ) -> Hidden:
        near = layout.neighbours
        left = embed(near.left_ids) + self.distance(near.left_distance)
        exists = (self.own_rows(near.right_distance) != NOTHING).unsqueeze(-1).to(left.dtype)
        right = embed(near.right_ids) * exists + self.distance(near.right_distance)
        return (self.left(left) + self.right(right)).transpose(0, 1)


class LinearContext(nn.Module):
    """C_n = U sum_m w(n, m) X0_m / sum_m w(n, m) over earlier m, with w(n, m) = phi(P_n) . phi(P_m).

    The paper's strictly causal prefix aggregation; phi = elu + 1, U and its place at G0 are our choice.
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        self.mix = layers.whole(config.hidden_size, config.hidden_size)

    def forward(
        self, layout: Layout, content: KeyHidden, embed: nn.Module, positions: nn.Module, cache: KeyValueCache | None
    ) -> Hidden:
        rows, keys = (F.elu(positions(ids)) + 1 for ids in (layout.query_positions, layout.content_positions))
        values = content.transpose(0, 1)
        if cache is not None:
            keys, values = (part[:, 0] for part in cache.extend(keys[:, None], values[:, None]))
        weights = rows @ keys.transpose(1, 2)
        visible = _as_dense(layout.visibility.query, weights)
        weights = weights * visible
        return self.mix(weights / weights.sum(-1, keepdim=True) @ values).transpose(0, 1)


class BothContexts(nn.Module):
    """The sum of the two; our choice."""

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        self.neighbours = NeighbourContext(config, layers)
        self.linear = LinearContext(config, layers)

    def forward(
        self, layout: Layout, content: KeyHidden, embed: nn.Module, positions: nn.Module, cache: KeyValueCache | None
    ) -> Hidden:
        given = (layout, content, embed, positions, cache)
        return self.neighbours(*given) + self.linear(*given)


def make_query_context(config: ModelConfig, layers: Layers) -> nn.Module | None:
    """The setting as a module; None where the query knows only its place."""
    if config.query_context == "neighbours":
        return NeighbourContext(config, layers)
    if config.query_context == "linear":
        return LinearContext(config, layers)
    return BothContexts(config, layers) if config.query_context == "both" else None


def _as_dense(mask: Mask, weights: Tensor) -> Tensor:
    """The mask as 0 and 1, in the type and broadcast to the shape of `weights` [batch, rows, keys]."""
    if mask.visible is not None:
        return mask.visible.to(weights.dtype)
    return torch.ones_like(weights).tril() if mask.causal else torch.ones_like(weights)
