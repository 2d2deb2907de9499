"""Attention over visible keys. The order decides which kernel computes it, and all of them compute the same.

One token a block: PyTorch's causal kernel, without a mask. Everything visible: the same without `is_causal`. Blocks of
several tokens: FlexAttention on CUDA, which skips tiles that nobody may see; elsewhere a dense mask. A row that sees
nothing gets zeros, and passes no gradient on.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from armd_dist.model.shapes import HeadKeys, HeadRows, Hidden
from armd_dist.model.visibility import Mask

FLEX_HEAD_DIM = 16  # FlexAttention's smallest on CUDA; below it a dense mask serves
FLEX_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attend(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask) -> Hidden:
    """Softmax attention. queries: [rows, batch, heads, head_dim]; returns [rows, batch, heads x head_dim]."""
    fits = queries.is_cuda and queries.shape[-1] >= FLEX_HEAD_DIM and queries.dtype in FLEX_DTYPES
    if mask.blocks is not None and fits:
        return attend_flex(queries, keys, values, mask, compiled_flex())
    return attend_sdpa(queries, keys, values, mask)


def attend_sdpa(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask) -> Hidden:
    """PyTorch's scaled_dot_product_attention: causal, without a mask, or with a dense one."""
    visible, blind = mask.visible, mask.blind
    if visible is not None and blind is not None:
        # Kernels differ in what they make of such rows (zeros, or NaN): let them see everything, and drop the result.
        visible = visible | blind[..., None]
    attn_mask = None if visible is None else visible[:, None]
    mixed = F.scaled_dot_product_attention(
        heads_first(queries), keys, values, attn_mask=attn_mask, is_causal=mask.causal
    )
    return _rows_first(mixed if blind is None else mixed.masked_fill(blind[:, None, :, None], 0.0))


def attend_flex(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask, kernel: Callable[..., Tensor]) -> Hidden:
    """FlexAttention under a mask of blocks. kernel: flex_attention, compiled or not; on CPU it has no backward."""
    return _rows_first(kernel(heads_first(queries), keys, values, block_mask=mask.tiles))


@cache
def compiled_flex() -> Callable[..., Tensor]:
    """FlexAttention as one fused kernel, compiled at the first call of the process and again for the second length."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def attend_reference(queries: Tensor, keys: HeadKeys, values: HeadKeys, mask: Mask) -> Hidden:
    """The same by its definition: dense scores, masked, softmax. Tests hold the kernels equal to it."""
    rows = heads_first(queries)
    scores = rows @ keys.transpose(-1, -2) / math.sqrt(rows.shape[-1])
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)[None]
    if mask.causal:
        visible = visible.tril()
    elif mask.visible is not None:
        visible = mask.visible
    # Not -inf: the softmax of a row that sees nothing would be NaN. Beside any visible key this weighs exactly 0.
    weights = scores.masked_fill(~visible[:, None], torch.finfo(scores.dtype).min).softmax(-1)
    return _rows_first(weights.masked_fill(~visible[:, None], 0.0) @ values)


def heads_first(rows: Tensor) -> HeadRows:
    """[rows, batch, heads, head_dim] -> [batch, heads, rows, head_dim]."""
    return rows.permute(1, 2, 0, 3)


def _rows_first(mixed: HeadRows) -> Hidden:
    """[batch, heads, rows, head_dim] -> [rows, batch, heads x head_dim]."""
    return mixed.permute(2, 0, 1, 3).flatten(2).contiguous()
