"""The fast attention and the fast layout against their slow definitions."""

import dataclasses

import numpy as np
import pytest
import torch
from toys import CONTEXTS, rows_of, scheme, tiny_model

from armd_dist.model.attention import attend, attend_reference
from armd_dist.model.layout import BOS_BLOCK, Layout
from armd_dist.model.visibility import ALL_CAUSAL, Mask, from_blocks
from armd_dist.objectives.likelihood import likelihood_loss, token_nll
from armd_dist.orders.schemes import any_order

EXACT = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def masks(kind: str, queries: int, keys: int) -> Mask:
    if kind == "dense":
        generator = torch.Generator().manual_seed(0)
        visible = torch.rand(2, queries, keys, generator=generator) < 0.5
        visible[..., 0] = True
        return Mask(dense=visible)
    return Mask(causal=kind == "causal")


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize(
    ("kind", "queries", "keys"),
    [
        ("dense", 7, 7),
        ("dense", 3, 9),
        ("causal", 7, 7),
        ("causal", 1, 1),
        ("full", 7, 7),
        ("full", 3, 9),
    ],
)
def test_attend_is_its_definition(kind: str, queries: int, keys: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(queries, 2, 3, 4, generator=generator, dtype=dtype).requires_grad_()
    k, v = (torch.randn(2, 3, keys, 4, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))
    outputs = [function(q, k, v, masks(kind, queries, keys)) for function in (attend, attend_reference)]
    assert outputs[0].shape == (queries, 2, 12)
    _close(outputs[0], outputs[1], tolerance)
    weight = torch.randn(outputs[0].shape, generator=generator, dtype=dtype)
    grads = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in outputs]
    for fast, slow in zip(*grads, strict=True):
        _close(fast, slow, tolerance)


def test_reference_by_hand() -> None:
    """One head, two keys: weights are the softmax of the scaled products, the unseen key weighs nothing."""
    q = torch.tensor([1.0, 2.0], dtype=torch.float64).view(1, 1, 1, 2)
    k = torch.tensor([[0.5, -1.0], [2.0, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    v = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).view(1, 1, 2, 2)
    weights = np.exp(np.array([-1.5, 4.0]) / np.sqrt(2))
    expected = torch.from_numpy(weights / weights.sum()).view(1, 1, 2)
    torch.testing.assert_close(attend_reference(q, k, v, Mask()), expected)
    seen = Mask(dense=torch.tensor([[[False, True]]]))
    torch.testing.assert_close(attend_reference(q, k, v, seen)[0, 0], v[0, 0, 1])


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("name", ["left_to_right", "any_order", "segments", "random batch"])
@pytest.mark.parametrize(("context", "two_stream"), [(c, n) for c in CONTEXTS for n in (1, 2, 4)] + [("neighbours", 0)])
def test_sorted_fast_path_equals_dense_masks(
    context: str, two_stream: int, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream, dtype=dtype)
    order = any_order(16, np.random.default_rng(5)) if name == "random batch" else scheme(name)
    rows = rows_of(order, batch=3)
    fast = rows.layout()
    assert fast.visibility is ALL_CAUSAL
    content_blocks = torch.nn.functional.pad(rows.blocks[:, :-1], (1, 0), value=BOS_BLOCK)
    dense = dataclasses.replace(fast, visibility=from_blocks(content_blocks, rows.blocks))
    _close(token_nll(model, fast, rows.ids), token_nll(model, dense, rows.ids), tolerance)
    for one, other in zip(_gradients(model, fast, rows.ids), _gradients(model, dense, rows.ids), strict=True):
        _close(one, other, tolerance)


def _gradients(model: torch.nn.Module, layout: Layout, targets: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    likelihood_loss(model, layout, targets).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("name", ["strided_2", "strided_4_ragged", "diffusion_4", "prompt_then_strided"])
def test_blocks_of_several_tokens_take_dense_masks(name: str) -> None:
    see = rows_of(scheme(name)).layout().visibility
    for mask in (see.content, see.query, see.upper):
        assert mask.dense is not None
        assert not mask.causal


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
