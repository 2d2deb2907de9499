"""The model's layers on Megatron-core: split over the tensor-parallel group, same parameter names as the plain ones."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core import ModelParallelConfig, parallel_state
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    gather_from_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    vocab_parallel_cross_entropy,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from armd_dist.model.layers import Places, RMSNorm, make_norm, mask_padding, wide
from armd_dist.model.shapes import Hidden, Ids, Logits, OwnHidden, Scores, Weight
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.dropout import Dropout
from armd_dist.parallel.recompute import keep_no_cheap_results, run_again_in_backward


class Column(ColumnParallelLinear):
    def forward(self, input_: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input_)[0]


class Row(RowParallelLinear):
    """Each process adds the one bias to all rows of the sum."""

    def forward(self, input_: Tensor) -> Tensor:  # type: ignore[override]
        summed, bias = super().forward(input_)
        return summed if bias is None else summed + self.bias_here(bias)

    def bias_here(self, bias: Tensor) -> Tensor:
        return bias


class SummedNorm(RMSNorm):
    """Every process applies the one weight to its own heads or rows, so its gradient is summed over the group."""

    def forward(self, hidden: Tensor) -> Tensor:
        weight = copy_to_tensor_model_parallel_region(self.weight)
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self.eps)


class MegatronLayers:
    """Implements `armd_dist.model.layers.Layers`. Weights come uninitialised: `sharding.initialize` fills them.

    dropout: what draws for each layer, None where nothing is dropped.
    """

    def __init__(self, config: ParallelConfig, dropout: Dropout | None = None) -> None:
        self.dropout = dropout
        self.recompute = config.recompute_at(parallel_state.get_pipeline_model_parallel_rank())
        self.weights_come_and_go = config.zero_stage == 3
        self.config = ModelParallelConfig(
            tensor_model_parallel_size=parallel_state.get_tensor_model_parallel_world_size(),
            use_cpu_initialization=True,  # `settle` moves them
            perform_initialization=False,
            gradient_accumulation_fusion=False,  # needs apex
        )

    def column(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        layer = Column(
            in_size,
            out_size,
            config=self.config,
            init_method=_keep,
            bias=bias,
            gather_output=False,
            skip_bias_add=False,
        )
        return mark_split(layer, split_dim=0)

    row_kind: type[Row] = Row

    def row(self, in_size: int, out_size: int, bias: bool = False) -> nn.Module:
        layer = self.row_kind(
            in_size,
            out_size,
            config=self.config,
            init_method=_keep,
            bias=bias,
            input_is_parallel=True,
            skip_bias_add=True,
        )
        return mark_split(layer, split_dim=1)

    def whole(self, in_size: int, out_size: int) -> nn.Module:
        return nn.Linear(in_size, out_size, bias=False)

    def norm(self, size: int, eps: float, kind: str, bias: bool = False) -> nn.Module:
        return make_norm(size, eps, kind, bias)

    def head_norm(self, size: int, eps: float) -> nn.Module:
        return SummedNorm(size, eps)

    def token_embedding(self, rows: int, size: int) -> nn.Module:
        return mark_split(VocabParallelEmbedding(rows, size, init_method=_keep, config=self.config), split_dim=0)

    def position_embedding(self, rows: int, size: int) -> nn.Module:
        return Places(rows, size)

    def own_rows(self, values: Tensor) -> Tensor:
        return values

    def run(self, number: int, layer: nn.Module, *inputs: Any) -> Any:
        if self.dropout is not None:
            self.dropout.seed(number)
        if self.recompute == "none":
            return layer(*inputs)
        if self.recompute == "selective":
            return keep_no_cheap_results(layer, *inputs)
        return run_again_in_backward(layer, *inputs, weights_come_and_go=self.weights_come_and_go)

    def logits(self, hidden: OwnHidden, weight: Weight, vocab_size: int) -> Logits:
        return logits_of_share(copy_to_tensor_model_parallel_region(hidden), weight, vocab_size)

    def whole_logits(self, logits: Logits) -> Tensor:
        return gather_from_tensor_model_parallel_region(logits)

    def token_nll(self, logits: Logits, targets: Ids) -> Scores:
        if logits.dtype == torch.float64:  # Megatron's own computes in fp32
            mine = _of_target(logits, targets)
            return self.log_normalizer(logits) - reduce_from_tensor_model_parallel_region(
                mine.masked_fill(mine.isinf(), 0)
            )
        return vocab_parallel_cross_entropy(logits.float(), targets.t().contiguous())

    def likeliest(self, logits: Logits, targets: Ids) -> Tensor:
        return _largest(_of_target(logits, targets)) >= _largest(logits.amax(-1))

    def log_normalizer(self, logits: Logits) -> Scores:
        exact = wide(logits)
        largest = _largest(exact.detach().amax(-1))
        total = reduce_from_tensor_model_parallel_region((exact - largest[..., None]).exp().sum(-1))
        return total.log() + largest


def _of_target(logits: Logits, targets: Ids) -> Tensor:
    """[rows, batch] the target's logit, -inf with a process that does not hold it. targets: [batch, rows]."""
    here = targets.t() - parallel_state.get_tensor_model_parallel_rank() * logits.shape[-1]
    own = (here >= 0) & (here < logits.shape[-1])
    found = logits.gather(-1, torch.where(own, here, 0)[..., None])[..., 0]
    return found.masked_fill(~own, float("-inf"))


def _largest(values: Tensor) -> Tensor:
    """The largest over all tensor-parallel processes, in place; without a gradient."""
    dist.all_reduce(values, dist.ReduceOp.MAX, group=parallel_state.get_tensor_model_parallel_group())
    return values


def _keep(tensor: Tensor) -> Tensor:
    return tensor


def logits_of_share(hidden: Hidden, weight: Weight, vocab_size: int) -> Logits:
    """Products of all rows with this process' share of the vocabulary."""
    first_row = parallel_state.get_tensor_model_parallel_rank() * weight.shape[0]
    return mask_padding(F.linear(hidden, weight), first_row, vocab_size)


def mark_split(layer: nn.Module, split_dim: int) -> nn.Module:
    """Megatron sets these marks only where it initialises; gradient norms and checkpoints depend on them."""
    set_tensor_model_parallel_attributes(layer.weight, True, split_dim, 1)
    return layer
