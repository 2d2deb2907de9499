"""Transformer layers: one set of weights for two streams below, an ordinary causal layer above."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from armd_dist.model.attention import Attention, KeyValueCache
from armd_dist.model.config import ModelConfig
from armd_dist.model.kernels import attend
from armd_dist.model.layers import Layers
from armd_dist.model.shapes import Angles, Hidden, KeyAngles, KeyHidden, OwnHidden
from armd_dist.model.visibility import Visibility


@dataclass(frozen=True)
class RowAngles:
    """Rotary cosines and sines of the content's rows, the query's, and both joined; None where nothing is rotated."""

    content: tuple[KeyAngles, KeyAngles] | None = None
    query: tuple[Angles, Angles] | None = None
    joint: tuple[Tensor, Tensor] | None = None


class SwiGLU(nn.Module):
    """silu(gate) x value. Value and gate lie side by side, so that a split by features keeps the pairs together."""

    def forward(self, pairs: Tensor) -> Tensor:
        value, gate = pairs.unflatten(-1, (-1, 2)).unbind(-1)
        return F.silu(gate) * value


class MLP(nn.Module):
    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        assert config.ffn_hidden_size is not None, "ModelConfig fills it"
        gated = config.activation == "swiglu"
        self.up = layers.column(config.hidden_size, config.ffn_hidden_size * (2 if gated else 1), config.bias)
        self.activation = SwiGLU() if gated else nn.GELU(approximate="tanh")
        self.down = layers.row(config.ffn_hidden_size, config.hidden_size, config.bias)

    def forward(self, hidden: OwnHidden) -> OwnHidden:
        return self.down(self.activation(self.up(hidden)))


class Layer(nn.Module):
    """The weights of one transformer layer."""

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        self.attention_norm = layers.norm(config.hidden_size, config.norm_eps, config.normalization, config.bias)
        self.attention = Attention(config, layers)
        self.mlp_norm = layers.norm(config.hidden_size, config.norm_eps, config.normalization, config.bias)
        self.mlp = MLP(config, layers)
        # On whole hidden states only: all tensor-parallel processes draw the same numbers.
        self.dropout = nn.Dropout(config.hidden_dropout)

    def add(self, rows: OwnHidden, attended: Tensor) -> OwnHidden:
        """What the attention found, then the MLP, written into the residual stream."""
        rows = rows + self.dropout(self.attention.out(attended))
        return rows + self.dropout(self.mlp(self.mlp_norm(rows)))


class TwoStreamLayer(Layer):
    """Content sees b(m) <= b(n), query sees b(m) < b(n); keys and values come from the content alone (ARMD paper).

    After the last such layer nobody reads the content again, so there only its keys and values are computed
    (`drops_content`; derived, not an approximation).
    """

    def __init__(self, config: ModelConfig, layers: Layers, drops_content: bool) -> None:
        super().__init__(config, layers)
        self.drops_content = drops_content

    def forward(
        self,
        content: KeyHidden,
        query: Hidden,
        see: Visibility,
        angles: RowAngles,
        cache: KeyValueCache | None,
    ) -> tuple[KeyHidden, Hidden]:
        streams = [query] if self.drops_content else [content, query]
        masks = [see.query] if self.drops_content else [see.content, see.query]
        joined = join(streams)
        normed = self.attention_norm(joined)
        normed_content = self.attention_norm(content) if self.drops_content else split(normed, streams)[0].contiguous()
        keys, values = self.attention.keys_values(normed_content, angles.content, cache)
        queries = self.attention.queries(normed, angles.query if self.drops_content else angles.joint)
        attended = [attend(q, keys, values, mask) for q, mask in zip(split(queries, streams), masks, strict=True)]
        joined = self.add(joined, join(attended))
        return (content, joined) if self.drops_content else tuple(split(joined, streams))  # type: ignore[return-value]


class UpperLayer(Layer):
    """An ordinary layer on the query stream: keys and values from itself, b(m) <= b(n)."""

    def forward(self, query: Hidden, see: Visibility, angles: RowAngles, cache: KeyValueCache | None) -> Hidden:
        normed = self.attention_norm(query)
        keys, values = self.attention.keys_values(normed, angles.query, cache)
        queries = self.attention.queries(normed, angles.query)
        return self.add(query, attend(queries, keys, values, see.upper))


def join(streams: Sequence[Tensor]) -> Tensor:
    """Streams as one tensor, so that every matrix product is done once for both.

    Streams of equal length are stacked along the batch (dim 1): rows may then be split over processes. While decoding
    they differ in length and follow one another along the rows (dim 0).
    """
    return torch.cat(tuple(streams), dim=_joint_dim(streams)) if len(streams) > 1 else streams[0]


def split(joined: Tensor, streams: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Undoes `join` for streams of these lengths."""
    dim = _joint_dim(streams)
    return joined.split([stream.shape[dim] for stream in streams], dim=dim)


def _joint_dim(streams: Sequence[Tensor]) -> int:
    return 1 if len({stream.shape[0] for stream in streams}) == 1 else 0
