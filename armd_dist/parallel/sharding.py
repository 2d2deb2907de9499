"""Which part of each parameter this process holds."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn

from armd_dist.checkpoint.pieces import Piece
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initial_value
from armd_dist.parallel.pipeline import Part, is_tied_copy


def split_dim(parameter: Tensor) -> int | None:
    """The dimension that tensor parallelism splits, or None where every process holds the whole."""
    return parameter.partition_dim if getattr(parameter, "tensor_model_parallel", False) else None  # type: ignore[attr-defined]


def local_shape(parameter: Tensor) -> tuple[int, ...]:
    """The shape of this process' tensor-parallel part, also where ZeRO 3 has put the values elsewhere."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def full_shape(parameter: Tensor) -> tuple[int, ...]:
    """The parameter's shape over all processes."""
    shape, dim = list(local_shape(parameter)), split_dim(parameter)
    if dim is not None:
        shape[dim] *= parallel_state.get_tensor_model_parallel_world_size()
    return tuple(shape)


def initialize(model: Part, config: ModelConfig, seed: int) -> Iterator[nn.Module]:
    """Gives every process its part of the same initial model, whatever the layout.

    Yields each module when its own weights have their values. A large weight on the CPU takes no memory until then:
    whoever moves each module on before asking for the next one holds one at a time.
    """
    for network in model.networks:
        for path, module in network.named_modules():
            own = list(module.named_parameters(recurse=False))
            for name, parameter in own:
                _set_initial(f"{path}.{name}", parameter, config, seed)
            if own:
                yield module


@torch.no_grad()
def _set_initial(name: str, parameter: nn.Parameter, config: ModelConfig, seed: int) -> None:
    size, rank = parallel_state.get_tensor_model_parallel_world_size(), parallel_state.get_tensor_model_parallel_rank()
    value, dim = initial_value(name, full_shape(parameter), config, seed), split_dim(parameter)
    parameter.copy_(value if dim is None else value.chunk(size, dim)[rank])


def as_piece(values: Tensor, parameter: Tensor, start: int) -> Piece:
    """Flat values, the elements from `start` on of this process' tensor-parallel part, as a part of the whole."""
    offsets, shape, dim = [0] * len(local_shape(parameter)), local_shape(parameter), split_dim(parameter)
    if dim is not None:
        offsets[dim] = parallel_state.get_tensor_model_parallel_rank() * shape[dim]
    return Piece(full_shape(parameter), tuple(offsets), shape, start, values)


def gradient_norm(model: Part) -> Tensor:
    """The norm of the whole model's gradient: what is split is summed over its group, what is copied counted once."""
    device = next(model.parameters()).device
    split, whole = torch.zeros((), device=device), torch.zeros((), device=device)
    for parameter in model.parameters():
        if parameter.grad is not None and not is_tied_copy(parameter):
            square = parameter.grad.float().square().sum()
            if split_dim(parameter) is None:
                whole += square
            else:
                split += square
    dist.all_reduce(split, group=parallel_state.get_tensor_model_parallel_group())
    total = split + whole
    dist.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
    return total.sqrt()


def num_parameters(model: Part) -> int:
    """Parameters of the whole model, over all processes."""
    mine = sum(torch.Size(full_shape(each)).numel() for each in model.parameters() if not is_tied_copy(each))
    total = torch.tensor(mine, device=next(model.parameters()).device)
    dist.all_reduce(total, group=parallel_state.get_pipeline_model_parallel_group())
    return int(total)
