"""The linear layers of one process: whatever library multiplies, the product is the same."""

import pytest
import torch
from torch import Tensor

from armd_dist.model import layers
from armd_dist.model.layers import PlainLayers, product

SHAPES = [(1, 1), (2, 1), (3, 5), (40, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_large_weight(shape: tuple[int, int]) -> None:
    """[rows, batch, hidden], contiguous and not."""
    draw = torch.Generator().manual_seed(0)
    weight, rows = torch.randn(1024, 512, generator=draw), torch.randn(*shape, 512, generator=draw)
    assert weight.numel() >= layers.LARGE
    with torch.no_grad():
        for given in (rows, rows.transpose(0, 1), rows[:, :1]):
            wanted = (given.double() @ weight.double().T).float()
            torch.testing.assert_close(product(given, weight), wanted, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(
                product(given, weight, weight[:, 0]), wanted + weight[:, 0], rtol=1e-5, atol=1e-4
            )


def test_who_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN large fp32 weights where no gradient is asked for, and F.linear all else."""
    asked: list[int] = []
    theirs = torch.nn.functional.linear

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        asked.append(weight.numel())
        return theirs(rows, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    layer = PlainLayers().column(512, 1024)
    rows = torch.ones(2, 1, 512)
    with torch.no_grad():
        layer(rows)
        assert asked == [], "a decoder's pass"
        PlainLayers().column(8, 8)(rows[..., :8])
        layer.double()(rows.double())
    layer.float()(rows).sum().backward()
    assert asked == [64, layer.get_parameter("weight").numel(), layer.get_parameter("weight").numel()]
    assert layer.get_parameter("weight").grad is not None
