"""Every attention kernel is the definition, forward and gradient; the kernel follows from the order alone.

On CPU FlexAttention runs unfused. torch refuses its backward there, though the formula is written: the tests lift the
refusal. What CUDA compiles from the same call is tested where there is a GPU.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from armd_dist.model.kernels import attend, attend_flex, attend_reference, attend_sdpa
from armd_dist.model.visibility import BOS_BLOCK, TILE, Blocks, Mask

EXACT = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
KINDS = ["causal", "everything", "dense", "one_dense", "blocks", "strict_blocks", "blind_rows", "blind_blocks"]
KINDS += ["document_blocks", "strict_document_blocks"]
Kernel = Callable[[Tensor, Tensor, Tensor, Mask], Tensor]


def unfused(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    return attend_flex(queries, keys, values, mask, flex.flex_attention)


def sorted_blocks(batch: int, count: int, seed: int, first: int = 1) -> Tensor:
    """Blocks of several tokens in the sequence of revelation, other ones for each sequence."""
    drawn = np.random.default_rng(seed).integers(first, 6, (batch, count))
    return torch.from_numpy(np.sort(drawn, axis=1))


def document_blocks(rows: int, keys: int, strict: bool, width: int = 20) -> Blocks:
    """Rows and keys of documents of `width` rows, side by side, each as revealed; key 0 is BOS's."""
    of_rows, of_keys = (
        sorted_blocks(2, count, seed=count) + torch.arange(count) // width * 6 for count in (rows, keys)
    )
    of_rows, of_keys = of_rows.sort(dim=1).values, of_keys.sort(dim=1).values
    of_keys[:, 0] = BOS_BLOCK
    return Blocks(of_rows, of_keys, strict, since=(of_rows - 1) // 6 * 6 + 1)


def make_mask(kind: str, rows: int, keys: int) -> Mask:
    """`blind` kinds have rows that see nothing; in the others key 0 stands for BOS."""
    if kind in ("causal", "everything"):
        return Mask(causal=kind == "causal")
    if kind in ("dense", "one_dense", "blind_rows"):
        shape = (1 if kind == "one_dense" else 2, rows, keys)
        dense = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
        dense[..., 0] = True
        if kind == "blind_rows":
            dense[0, 0] = dense[1, -1] = False
        return Mask(dense=dense)
    if "document" in kind:
        return Mask(blocks=document_blocks(rows, keys, strict="strict" in kind))
    of_keys = sorted_blocks(2, keys, seed=1)
    if kind != "blind_blocks":
        of_keys[:, 0] = -1
    return Mask(blocks=Blocks(sorted_blocks(2, rows, seed=2), of_keys, strict=kind != "blocks"))


def inputs(rows: int, keys: int, dtype: torch.dtype, device: str = "cpu", width: int = 16) -> tuple[Tensor, ...]:
    """Queries as the network holds them, keys and values with heads first, and a direction for the gradient."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, 2, 3, width), (2, 3, keys, width), (2, 3, keys, width), (rows, 2, 3 * width))
    made = [torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in shapes]
    return (*(part.requires_grad_() for part in made[:3]), made[3])


def run(kernel: Kernel, mask: Mask, *given: Tensor) -> list[Tensor]:
    """Output and gradients of queries, keys and values."""
    *leaves, direction = given
    out = kernel(leaves[0], leaves[1], leaves[2], mask)
    assert out.shape == direction.shape
    return [out, *torch.autograd.grad((out * direction).sum(), leaves)]


def agree(kernel: Kernel, mask: Mask, given: tuple[Tensor, ...], tolerance: float) -> None:
    for found, wanted in zip(run(kernel, mask, *given), run(attend_reference, mask, *given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), EXACT)
@pytest.mark.parametrize(("rows", "keys"), [(7, 7), (3, 9), (1, 1), (130, 130)])
@pytest.mark.parametrize("kind", KINDS)
def test_attend_is_the_definition(kind: str, rows: int, keys: int, dtype: torch.dtype, tolerance: float) -> None:
    agree(attend, make_mask(kind, rows, keys), inputs(rows, keys, dtype), tolerance)


@pytest.mark.usefixtures("differentiable")
@pytest.mark.parametrize(("rows", "keys"), [(7, 7), (128, 128), (130, 300)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "blocks" in kind])
def test_flex_is_the_definition(kind: str, rows: int, keys: int) -> None:
    for dtype, tolerance in EXACT:
        agree(unfused, make_mask(kind, rows, keys), inputs(rows, keys, dtype), tolerance)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("rows", "keys"), [(128, 128), (130, 300)])
@pytest.mark.parametrize("kind", KINDS)
def test_attend_on_cuda_is_the_definition(kind: str, rows: int, keys: int) -> None:
    mask = make_mask(kind, rows, keys).to("cuda")
    agree(attend, mask, inputs(rows, keys, torch.float32, "cuda"), 1e-5)
    assert ("tiles" in mask.__dict__) == ("blocks" in kind)


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


def rough_sdpa(queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor, is_causal: bool) -> Tensor:
    """A backend that makes NaN of a row without keys."""
    scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    return scores.masked_fill(~attn_mask, float("-inf")).softmax(-1) @ values


@pytest.mark.usefixtures("differentiable")
@pytest.mark.parametrize("kind", ["blind_rows", "blind_blocks"])
@pytest.mark.parametrize("name", ["sdpa", "rough_sdpa", "flex", "reference"])
def test_a_row_that_sees_nothing_gets_zeros(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "flex" and kind == "blind_rows":
        pytest.skip("FlexAttention serves masks of blocks")
    if name == "rough_sdpa":
        monkeypatch.setattr(F, "scaled_dot_product_attention", rough_sdpa)
    kernel = {"flex": unfused, "reference": attend_reference}.get(name, attend_sdpa)
    mask, given = make_mask(kind, 7, 7), inputs(7, 7, torch.float64)
    blind = mask.blind
    assert blind is not None
    assert blind.any(-1).all(), "each sequence has such a row"
    out, *grads = run(kernel, mask, *given)
    assert (out.transpose(0, 1)[blind] == 0).all()
    assert (grads[0].transpose(0, 1)[blind] == 0).all()
    assert all(grad.isfinite().all() and grad.any() for grad in grads)
    # What the blind rows' outputs are multiplied with reaches nobody.
    given[3].transpose(0, 1)[blind] += 1e3
    for grad, same in zip(grads, run(kernel, mask, *given)[1:], strict=True):
        torch.testing.assert_close(grad, same, rtol=0, atol=1e-12)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(37, 37), (TILE, TILE), (300, 300), (129, 384), (513, 200)])
def test_tiles_are_those_of_torch(rows: int, keys: int, strict: bool) -> None:
    blocks = Blocks(sorted_blocks(3, rows, seed=3), sorted_blocks(3, keys, seed=4), strict)
    seen = Mask(blocks=blocks).visible
    assert seen is not None
    expected = flex.create_block_mask(lambda b, h, q, k: seen[b, q, k], 3, None, rows, keys, device="cpu")
    found = Mask(blocks=blocks).tiles
    for count, numbers in (("kv_num_blocks", "kv_indices"), ("q_num_blocks", "q_indices")):
        for name in (count, numbers, f"full_{count}", f"full_{numbers}"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)
    assert found.seq_lengths == expected.seq_lengths == (rows, keys)
    assert found.BLOCK_SIZE == expected.BLOCK_SIZE
    everywhere = torch.meshgrid(*map(torch.arange, (3, rows, keys)), indexing="ij")
    assert (found.mask_mod(everywhere[0], torch.tensor(0), *everywhere[1:]) == seen).all()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(37, 37), (300, 300), (129, 384), (513, 200)])
@pytest.mark.parametrize("width", [20, 130, 256])
def test_tiles_within_documents_hide_nothing_and_show_nothing(width: int, rows: int, keys: int, strict: bool) -> None:
    """At most one tile in a row of tiles is listed that turns out to be empty; none is called full that is not."""
    blocks = document_blocks(rows, keys, strict, width)
    seen = Mask(blocks=blocks).visible
    assert seen is not None
    expected = flex.create_block_mask(lambda b, h, q, k: seen[b, q, k], 2, None, rows, keys, device="cpu")
    found = Mask(blocks=blocks).tiles
    some, full = (_dense_tiles(found, name) for name in ("kv", "full_kv"))
    wanted_some, wanted_full = (_dense_tiles(expected, name) for name in ("kv", "full_kv"))
    assert (full <= wanted_full).all()
    assert not (some & full).any()
    assert (wanted_some | wanted_full <= some | full).all()
    assert ((some | full) & ~(wanted_some | wanted_full)).sum(-1).max() <= 1
    everywhere = torch.meshgrid(*map(torch.arange, (2, rows, keys)), indexing="ij")
    assert (found.mask_mod(everywhere[0], torch.tensor(0), *everywhere[1:]) == seen).all()


def _dense_tiles(mask: flex.BlockMask, name: str) -> Tensor:
    """[batch, row tiles, key tiles], true where listed."""
    counts, numbers = (getattr(mask, f"{name}_{part}")[:, 0] for part in ("num_blocks", "indices"))
    marked = torch.zeros(numbers.shape, dtype=torch.bool)
    first = torch.arange(numbers.shape[-1]) < counts[..., None]
    return marked.scatter(-1, numbers.long(), first)


def test_documents_are_left_out_of_one_another() -> None:
    """32 documents of a tile each: a row of tiles lists its own and that of BOS, not all that were revealed before."""
    every = Mask(blocks=document_blocks(32 * TILE, 32 * TILE, strict=False, width=TILE)).tiles
    assert every.full_kv_num_blocks is not None
    assert (every.kv_num_blocks + every.full_kv_num_blocks).max() <= 3


@pytest.mark.usefixtures("differentiable")
def test_flex_is_compiled_once_for_all_orders_of_a_shape() -> None:
    kernel = torch.compile(flex.flex_attention, backend="aot_eager")
    queries, keys, values, _ = inputs(130, 130, torch.float32)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed, strict in enumerate([False, True, False, True]):
            across = Blocks(sorted_blocks(2, 130, seed), sorted_blocks(2, 130, seed + 9), strict)
            for blocks in (across, document_blocks(130, 130, strict)):
                mask = Mask(blocks=blocks)
                found = partial(attend_flex, kernel=kernel)(queries, keys, values, mask)
                torch.testing.assert_close(found, attend_reference(queries, keys, values, mask), rtol=1e-5, atol=1e-5)
