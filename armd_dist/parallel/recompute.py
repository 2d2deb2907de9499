"""Activation recompute: what a layer keeps for the backward pass, and what it computes once more.

full: a layer keeps its inputs alone, and runs again when the backward pass comes to it. Dropout draws the same numbers
both times: the generator's state is kept with the inputs.
selective: results of norms and of the MLP's activation, wide and cheap, are not kept for the matrix products that read
them; their inputs, which are kept anyway, give them again. No matrix product and no attention runs twice.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from armd_dist.model.layers import RMSNorm
from armd_dist.model.two_stream import SwiGLU

CHEAP = (RMSNorm, nn.LayerNorm, nn.GELU, SwiGLU)


def keep_no_cheap_results(layer: nn.Module, *inputs: Any) -> Any:
    """`layer(*inputs)`; what its norms and activation make is computed again where the backward pass needs it."""
    cheap = _CheapResults()
    hooks = [part.register_forward_hook(cheap.note) for part in layer.modules() if isinstance(part, CHEAP)]
    try:
        with saved_tensors_hooks(cheap.pack, _unpack):
            return layer(*inputs)
    finally:
        cheap.drop()
        for hook in hooks:
            hook.remove()


@dataclass
class _Recipe:
    """How `result` came about: None from when the layer is through until the backward pass asks for it."""

    part: nn.Module
    input: Tensor
    result: Tensor | None

    def again(self) -> Tensor:
        if self.result is not None:
            return self.result
        with torch.no_grad():
            self.result = result = self.part(self.input)  # ZeRO 3 fetches its weight once more
        return result


@dataclass
class _View:
    """A saved tensor that lies in a cheap result."""

    recipe: _Recipe
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


@dataclass
class _CheapResults:
    """Those of one layer in one pass, by the address of their storage. Alive here, no address is used twice."""

    recipes: dict[int, _Recipe] = field(default_factory=dict)

    def note(self, part: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
        self.recipes[result.untyped_storage().data_ptr()] = _Recipe(part, inputs[0].detach(), result.detach())

    def drop(self) -> None:
        for recipe in self.recipes.values():
            recipe.result = None

    def pack(self, tensor: Tensor) -> Tensor | _View:
        recipe = self.recipes.get(tensor.untyped_storage().data_ptr())
        if recipe is None:
            return tensor
        return _View(recipe, tensor.size(), tensor.stride(), tensor.storage_offset())


def _unpack(kept: Tensor | _View) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    return kept.recipe.again().as_strided(kept.size, kept.stride, kept.offset)


def run_again_in_backward(layer: nn.Module, *inputs: Any, weights_come_and_go: bool) -> Any:
    """`layer(*inputs)`, its activations dropped until the backward pass.

    weights_come_and_go: ZeRO 3 fetches the weights of each module before its backward pass and drops them after its
    forward pass. Run again between the two, the layer's last module would lose the weights that it was just given. So
    the layer runs again before any of its modules has its turn.
    """
    if not weights_come_and_go:
        return checkpoint(layer, *inputs, use_reentrant=False)
    return checkpoint(_RunsFirst(layer), *inputs, use_reentrant=False)


class _RunsFirst:
    """The layer, with a step behind it whose backward pass, the first of all, asks for what must be computed again."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(self, *inputs: Any) -> Any:
        outputs = self.layer(*inputs)
        return _Ask.apply(*outputs) if isinstance(outputs, tuple) else _Ask.apply(outputs)[0]


class _Ask(Function):
    @staticmethod
    def forward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(outputs[0].new_empty(0))
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _ = ctx.saved_tensors
        return gradients
