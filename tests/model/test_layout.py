"""The order chooses the masks, and the whole network computes the same whichever kernel serves them."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from toys import CONTEXTS, SCHEMES, Rows, rows_of, scheme, tiny_model

from armd_dist.model import two_stream, visibility
from armd_dist.model.armd import ARMD
from armd_dist.model.kernels import attend_flex, attend_reference
from armd_dist.model.layout import Layout
from armd_dist.model.visibility import ALL_CAUSAL, BOS_BLOCK, Mask, from_blocks
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import any_order, masked_diffusion

EXACT = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
CASES = [(context, layers) for context in CONTEXTS for layers in (1, 2, 4)] + [("neighbours", 0)]
SEVERAL = sorted(name for name in SCHEMES if not scheme(name).singletons)


def orders(kind: str) -> list[Order]:
    """A random order for each of three sequences, of one token a block or of several."""
    draws = [np.random.default_rng(seed) for seed in range(3)]
    if kind == "singletons":
        return [any_order(16, draw) for draw in draws]
    return [masked_diffusion(16, 5, draw) for draw in draws]


def batch_of(kind: str) -> Rows:
    apart = [rows_of(order, seed=seed) for seed, order in enumerate(orders(kind))]
    return Rows(*(torch.cat(parts) for parts in zip(*apart, strict=True)))


def by_blocks(layout: Layout, blocks: Tensor) -> Layout:
    """The same rows, stored as revealed, with masks that the definition gives."""
    content = torch.nn.functional.pad(blocks[:, :-1], (1, 0), value=BOS_BLOCK)
    return dataclasses.replace(layout, visibility=from_blocks(content, blocks))


def nll_and_gradients(model: ARMD, layout: Layout, targets: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    nll = token_nll(model, layout, targets)
    nll.mean().backward()
    grads = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return {"": nll.detach(), **grads}


def agree(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("kind", ["singletons", "several"])
@pytest.mark.parametrize(("context", "two_stream_layers"), CASES)
def test_network_equals_its_definition(
    context: str,
    two_stream_layers: int,
    kind: str,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sorted rows under the plain causal kernel, and blocks under dense masks: each sequence with its own order."""
    model = tiny_model(query_context=context, two_stream_layers=two_stream_layers, dtype=dtype)
    rows = batch_of(kind)
    fast = rows.layout()
    assert (fast.visibility is ALL_CAUSAL) == (kind == "singletons")
    found = nll_and_gradients(model, fast, rows.ids)
    monkeypatch.setattr(two_stream, "attend", attend_reference)
    agree(found, nll_and_gradients(model, by_blocks(fast, rows.blocks), rows.ids), tolerance)


@pytest.mark.usefixtures("differentiable")
@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("kind", ["singletons", "several"])
def test_network_on_flex_equals_its_definition(
    kind: str, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = tiny_model(dtype=dtype), batch_of(kind)
    layout = by_blocks(rows.layout(), rows.blocks)
    monkeypatch.setattr(two_stream, "attend", attend_reference)
    wanted = nll_and_gradients(model, layout, rows.ids)

    def unfused(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
        return attend_flex(queries, keys, values, mask, flex.flex_attention)

    monkeypatch.setattr(two_stream, "attend", unfused)
    agree(nll_and_gradients(model, layout, rows.ids), wanted, tolerance)


@pytest.mark.parametrize("name", SCHEMES)
def test_the_order_chooses_the_masks(name: str) -> None:
    see = rows_of(scheme(name)).layout().visibility
    for mask in (see.content, see.query, see.upper):
        assert (mask.blocks is not None) == (name in SEVERAL)
        assert mask.causal == (name not in SEVERAL)
        assert mask.dense is None


def test_masks_are_made_once_an_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once a layer, and not again for the gradient or a second pass."""
    made: list[str] = []

    def counted(name: str) -> Any:
        rule = getattr(visibility, name)
        return lambda rows, keys: (made.append(name), rule(rows, keys))[1]

    for name in ("earlier", "not_later"):
        monkeypatch.setattr(visibility, name, counted(name))
    model, rows = tiny_model(two_stream_layers=2), rows_of(scheme("strided_4"))
    layout = rows.layout()
    for _ in range(2):
        nll_and_gradients(model, layout, rows.ids)
    assert sorted(made) == ["earlier", "not_later", "not_later"]


def test_masks_are_made_on_the_device_where_they_are_used() -> None:
    here = rows_of(scheme("strided_4")).layout()
    there = here.to("meta").visibility
    for mask in (there.content, there.query, there.upper):
        assert mask.visible is not None
        assert mask.visible.device.type == "meta"
    assert "visible" not in here.visibility.query.__dict__
