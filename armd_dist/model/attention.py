"""Attention over visible keys: a fast path on PyTorch's kernels, and a slow one that states the formula."""

import math
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import Layers
from armd_dist.model.rotary import rotate
from armd_dist.model.shapes import Angles, HeadKeys, HeadRows, Hidden
from armd_dist.model.visibility import Mask


@runtime_checkable
class KeyValueCache(Protocol):
    """Keys and values of what was placed earlier, for one layer."""

    def extend(self, keys: HeadRows, values: HeadRows) -> tuple[HeadKeys, HeadKeys]:
        """Appends and returns all keys and values so far."""
        ...


class Attention(nn.Module):
    """Multi-head attention whose queries and keys may come from different streams."""

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.query = layers.column(config.hidden_size, config.hidden_size)
        # One head's key and value lie side by side, so that a split by output features keeps heads whole.
        self.key_value = layers.column(config.hidden_size, 2 * config.hidden_size)
        self.out = layers.row(config.hidden_size, config.hidden_size)

    def queries(self, hidden: Hidden, angles: tuple[Angles, Angles]) -> Tensor:
        """[rows, batch, heads, head_dim], rotated to the rows' places in the text."""
        query = self.query(hidden)
        return rotate(query.view(*query.shape[:2], -1, self.head_dim), angles)

    def keys_values(
        self, hidden: Hidden, angles: tuple[Angles, Angles], cache: KeyValueCache | None
    ) -> tuple[HeadKeys, HeadKeys]:
        """Keys and values of these rows, behind those of the cache where there is one."""
        both = self.key_value(hidden)
        key, value = both.view(*both.shape[:2], -1, 2, self.head_dim).unbind(3)
        keys, values = heads_first(rotate(key, angles)), heads_first(value)
        return cache.extend(keys, values) if cache is not None else (keys, values)


def heads_first(rows: Tensor) -> HeadRows:
    """[rows, batch, heads, head_dim] -> [batch, heads, rows, head_dim]."""
    return rows.permute(1, 2, 0, 3)


def attend(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask) -> Hidden:
    """Softmax attention. queries: [rows, batch, heads, head_dim]; returns [rows, batch, heads x head_dim]."""
    dense = None if mask.dense is None else mask.dense[:, None]
    mixed = F.scaled_dot_product_attention(heads_first(queries), keys, values, attn_mask=dense, is_causal=mask.causal)
    return mixed.permute(2, 0, 1, 3).flatten(2).contiguous()


def attend_reference(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask) -> Hidden:
    """The same by its definition: dense scores, masked, softmax. Tests hold `attend` equal to it."""
    rows = heads_first(queries)
    scores = rows @ keys.transpose(-1, -2) / math.sqrt(rows.shape[-1])
    if mask.causal:
        visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~visible, float("-inf"))
    elif mask.dense is not None:
        scores = scores.masked_fill(~mask.dense[:, None], float("-inf"))
    return (scores.softmax(-1) @ values).permute(2, 0, 1, 3).flatten(2)
