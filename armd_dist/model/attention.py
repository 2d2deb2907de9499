"""Projections of attention: queries from one stream, keys and values perhaps from another."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.kernels import heads_first
from armd_dist.model.layers import Layers
from armd_dist.model.parametrization import query_multiplier
from armd_dist.model.rotary import rotate
from armd_dist.model.shapes import Angles, GroupKeys, HeadKeys, HeadRows, OwnHidden


@runtime_checkable
class KeyValueCache(Protocol):
    """Keys and values of what was placed earlier, for one layer."""

    def extend(self, keys: HeadRows, values: HeadRows) -> tuple[HeadKeys, HeadKeys]:
        """Appends and returns all keys and values so far."""
        ...


class Attention(nn.Module):
    """Multi-head attention whose queries and keys may come from different streams.

    A head of keys and values serves a group of neighbouring query heads (grouped queries; one each by default).
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        assert config.num_key_value_heads is not None, "ModelConfig fills it"
        self.head_dim = config.head_dim
        self.query_multiplier = query_multiplier(config)
        self.group = config.num_attention_heads // config.num_key_value_heads
        self.query = layers.column(config.hidden_size, config.hidden_size, config.bias)
        # One head's key and value lie side by side, so that a split by output features keeps heads whole.
        keys_values = 2 * config.num_key_value_heads * config.head_dim
        self.key_value = layers.column(config.hidden_size, keys_values, config.bias)
        self.query_norm = layers.head_norm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = layers.head_norm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.out = layers.row(config.hidden_size, config.hidden_size, config.bias)

    def queries(self, hidden: OwnHidden, angles: tuple[Angles, Angles] | None) -> Tensor:
        """[rows, batch, heads, head_dim], rotated to the rows' places in the text; under muP multiplied."""
        query = self.query(hidden)
        rotated = rotate(self.query_norm(query.view(*query.shape[:2], -1, self.head_dim)), angles)
        return rotated if self.query_multiplier == 1 else rotated * self.query_multiplier

    def keys_values(
        self, hidden: OwnHidden, angles: tuple[Angles, Angles] | None, cache: KeyValueCache | None
    ) -> tuple[HeadKeys, HeadKeys]:
        """Keys and values of these rows, behind those of the cache where there is one, a head for each query head."""
        both = self.key_value(hidden)
        key, value = both.view(*both.shape[:2], -1, 2, self.head_dim).unbind(3)
        keys, values = heads_first(rotate(self.key_norm(key), angles)), heads_first(value)
        if cache is not None:
            keys, values = cache.extend(keys, values)
        return for_each_query_head(keys, self.group), for_each_query_head(values, self.group)


def for_each_query_head(rows: GroupKeys, group: int) -> HeadKeys:
    """Every head `group` times in a row. The cache holds them once."""
    return rows.repeat_interleave(group, dim=1) if group > 1 else rows
