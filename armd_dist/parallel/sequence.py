"""Sequence parallelism: between the split layers each tensor-parallel process holds a share of the rows.

What lies between a row layer and the next column layer (norms, residuals, dropout, embeddings) is then split too, and
no longer kept by every process. Column layers gather the rows and row layers scatter their sums, both Megatron-core's.
Weights that every process holds entirely see its own rows alone, so their gradients are summed over the group, within
the backward pass: ZeRO from stage 2 on takes gradients away as soon as they are there.
"""

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.tensor_parallel import (
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor, nn

from armd_dist.model.layers import Places
from armd_dist.model.shapes import Logits, OwnHidden, Weight
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.dropout import Dropout
from armd_dist.parallel.layers import MegatronLayers, Row, SummedNorm, logits_of_share, mark_split


class SummedRow(Row):
    """Its bias is added to this process' rows alone."""

    def bias_here(self, bias: Tensor) -> Tensor:
        return copy_to_tensor_model_parallel_region(bias)


class SequenceLayers(MegatronLayers):
    """`MegatronLayers` with hidden states split by rows. The number of rows must be a multiple of the group's size."""

    row_kind = SummedRow

    def __init__(self, config: ParallelConfig, dropout: Dropout | None = None) -> None:
        super().__init__(config, dropout)
        self.config.sequence_parallel = True

    def whole(self, in_size: int, out_size: int) -> nn.Module:
        return SummedLinear(in_size, out_size, bias=False)

    def norm(self, size: int, eps: float, kind: str, bias: bool = False) -> nn.Module:
        return SummedLayerNorm(size, eps, bias=bias) if kind == "layernorm" else SummedNorm(size, eps)

    def token_embedding(self, rows: int, size: int) -> nn.Module:
        return mark_split(ScatteredEmbedding(rows, size, config=self.config), split_dim=0)

    def position_embedding(self, rows: int, size: int) -> nn.Module:
        return OwnPlaces(rows, size)

    def own_rows(self, values: Tensor) -> Tensor:
        return own_rows(values)

    def logits(self, hidden: OwnHidden, weight: Weight, vocab_size: int) -> Logits:
        return logits_of_share(gather_from_sequence_parallel_region(hidden), weight, vocab_size)


def own_rows(values: Tensor) -> Tensor:
    """This process' share of [batch, rows]."""
    size, rank = parallel_state.get_tensor_model_parallel_world_size(), parallel_state.get_tensor_model_parallel_rank()
    assert values.shape[1] % size == 0, f"{values.shape[1]} rows cannot be shared by {size} processes"
    return values.chunk(size, 1)[rank]


class ScatteredEmbedding(VocabParallelEmbedding):
    """Takes all ids [batch, rows], returns this process' rows [batch, own rows, hidden]: look-ups are summed and
    scattered at once."""

    def __init__(self, rows: int, size: int, **settings: object) -> None:
        super().__init__(rows, size, init_method=_keep, reduce_scatter_embeddings=True, **settings)  # type: ignore[arg-type]

    def forward(self, input_: Tensor) -> Tensor:
        return super().forward(input_).transpose(0, 1)


class OwnPlaces(Places):
    """Takes places of all rows, looks up this process' own."""

    def forward(self, input: Tensor) -> Tensor:
        mine = own_rows(input)
        weight = copy_to_tensor_model_parallel_region(self.weight)
        return F.embedding(mine if self.num_embeddings > 1 else torch.zeros_like(mine), weight)


class SummedLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, copy_to_tensor_model_parallel_region(self.weight))


class SummedLayerNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        weight = copy_to_tensor_model_parallel_region(self.weight)
        bias = None if self.bias is None else copy_to_tensor_model_parallel_region(self.bias)
        return F.layer_norm(input, self.normalized_shape, weight, bias, self.eps)


def _keep(tensor: Tensor) -> Tensor:
    return tensor
