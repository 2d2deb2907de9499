"""Activation recompute: a layer keeps its inputs alone, and runs again when the backward pass comes to it.

Dropout draws the same numbers both times: the generator's state is kept with the inputs.
"""

from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint


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
