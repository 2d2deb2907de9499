"""The z-loss on Megatron's layers is that of the plain ones, value and gradient."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from armd_dist.model.layers import PlainLayers
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.parallel.config import ParallelConfig
from armd_dist.parallel.layers import MegatronLayers
from armd_dist.parallel.topology import start, stop


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    start(ParallelConfig.model_validate({}))
    yield
    stop()


class Logits:
    """A network that answers every layout with the same logits."""

    def __init__(self, values: Tensor, layers: Any) -> None:
        self.values, self.layers = values.clone().requires_grad_(), layers

    def __call__(self, layout: object) -> Tensor:
        return self.values * 1.0  # not a leaf: Megatron writes into it


def losses(values: Tensor, layers: Any, weights: Tensor | None) -> tuple[Loss, Tensor]:
    network: Any = Logits(values, layers)
    targets = torch.arange(6).view(2, 3)
    nothing: Any = None
    loss = MicroBatch(nothing, targets, weights).loss(network, z_loss=0.5)
    return loss, torch.autograd.grad(loss.objective, network.values)[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_megatron_and_plain_layers_agree(weighted: bool, one_process: None) -> None:
    values = 3 * torch.randn(3, 2, 20, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]) if weighted else None
    (plain, plain_grad), (split, split_grad) = (
        losses(values, made, weights) for made in (PlainLayers(), MegatronLayers(ParallelConfig.model_validate({})))
    )
    torch.testing.assert_close(split.objective, plain.objective, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split.nll, plain.nll, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(split_grad, plain_grad, rtol=1e-5, atol=1e-6)
    square = values.logsumexp(-1).square() * (1.0 if weights is None else weights.t())
    assert (plain.objective - plain.nll).item() == pytest.approx(0.5 * square.mean().item(), rel=1e-5)
    if weights is not None:
        assert plain_grad[weights.t() == 0].abs().max() == 0
