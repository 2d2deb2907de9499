"""Attention within documents: each document of a window is to the network what it is alone in a window of its own."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from toys import BOS, CONTEXTS, VOCAB, tiny_config, tiny_model

from armd_dist.model import two_stream
from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.initialization import initialize
from armd_dist.model.kernels import attend_flex, attend_reference, attend_sdpa
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.model.visibility import ALL_CAUSAL, Mask
from armd_dist.objectives.documents import tokens_before
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.objectives.masked_diffusion import draw_masking, masked_batch
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import (
    any_order,
    block_diffusion,
    in_blocks,
    left_to_right,
    masked_diffusion,
    segments,
    strided,
    window,
)

EOS, LENGTH = 2, 14
# Tokens of each document: several, one that fills the window, one of a single token, and a last one without its end.
WINDOWS = [[5, 3, 6], [14], [1, 1, 7, 5]]
SCHEMES: dict[str, Callable[[np.random.Generator], Order]] = {
    "left_to_right": lambda draw: left_to_right(LENGTH),
    "any_order": lambda draw: any_order(LENGTH, draw),
    "segments": lambda draw: segments(LENGTH, 4, draw),
    "window": lambda draw: window(LENGTH, 4, draw),
    "strided_2": lambda draw: strided(LENGTH, 2),
    "strided_4": lambda draw: strided(LENGTH, 4),
    "masked_diffusion": lambda draw: masked_diffusion(LENGTH, 4, draw),
    "block_diffusion": lambda draw: block_diffusion(LENGTH, 4, 3, draw),
    "segments_in_blocks": lambda draw: in_blocks(segments(LENGTH, 4, draw), 3),
}
CASES = [(context, 2) for context in CONTEXTS] + [("neighbours", layers) for layers in (0, 4)]


def windows() -> Tensor:
    """[windows, LENGTH] tokens; every document but the last one of a window ends with EOS."""
    drawn = torch.randint(3, VOCAB, (len(WINDOWS), LENGTH), generator=torch.Generator().manual_seed(0))
    for row, lengths in enumerate(WINDOWS):
        drawn[row, np.cumsum(lengths)[:-1] - 1] = EOS
    return drawn


def spans() -> list[tuple[int, slice]]:
    """(window, its tokens) of every document."""
    found = []
    for row, lengths in enumerate(WINDOWS):
        ends = np.cumsum(lengths).tolist()
        found += [(row, slice(end - length, end)) for end, length in zip(ends, lengths, strict=True)]
    return found


def orders(name: str) -> list[Order]:
    return [SCHEMES[name](np.random.default_rng(seed)) for seed in range(len(WINDOWS))]


def of_document(order: Order, span: slice) -> Order:
    """What the order of a window makes of one of its documents."""
    inside = (order.position > span.start) & (order.position <= span.stop)
    return Order(order.position[inside] - span.start, order.block[inside])


def gradients(model: ARMD, total: Tensor) -> dict[str, Tensor]:
    """Of all parameters that `total` reaches."""
    names, values = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total, values, allow_unused=True)
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def packed_and_alone(model: ARMD, name: str) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Logits of every document in its window and alone, [tokens, vocab] as revealed, and the sums of all nats."""
    tokens, drawn = windows(), orders(name)
    packed = ordered_batch(tokens, drawn, BOS, eos_id=EOS)
    logits = model(packed.layout)
    inside, apart, nats = [], [], []
    for row, span in spans():
        inside.append(logits[span, row, :VOCAB])  # a document's rows lie side by side
        alone = ordered_batch(tokens[row : row + 1, span], [of_document(drawn[row], span)], BOS)
        found = model(alone.layout)
        apart.append(found[:, 0, :VOCAB])
        nats.append(model.layers.token_nll(found, alone.targets).sum())
    return inside, apart, model.layers.token_nll(logits, packed.targets).sum(), torch.stack(nats).sum()


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("context", "two_stream_layers"), CASES)
def test_a_document_in_a_window_is_the_document_alone(context: str, two_stream_layers: int, name: str) -> None:
    """Logits, loss and gradients."""
    model = tiny_model(query_context=context, two_stream_layers=two_stream_layers)
    inside, apart, total, wanted = packed_and_alone(model, name)
    torch.testing.assert_close(torch.cat(inside), torch.cat(apart), rtol=0, atol=1e-10)
    torch.testing.assert_close(total, wanted, rtol=1e-12, atol=0)
    packed, alone = gradients(model, total), gradients(model, wanted)
    assert packed.keys() == alone.keys()
    for parameter, grad in alone.items():
        torch.testing.assert_close(packed[parameter], grad, rtol=0, atol=1e-10 * max(1.0, grad.abs().max().item()))


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("name", ["left_to_right", "any_order", "strided_4"])
def test_with_either_kind_of_positions_alone(name: str, position: str) -> None:
    inside, apart, _, _ = packed_and_alone(tiny_model(position_embedding=position), name)
    torch.testing.assert_close(torch.cat(inside), torch.cat(apart), rtol=0, atol=1e-10)


def unfused(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """FlexAttention under the tiles of its mask; a causal mask has none."""
    if mask.blocks is None:
        return attend_sdpa(queries, keys, values, mask)
    return attend_flex(queries, keys, values, mask, flex.flex_attention)


@pytest.mark.parametrize("kernel", [attend_sdpa, attend_reference, unfused])
@pytest.mark.parametrize("name", SCHEMES)
@torch.no_grad()
def test_on_every_kernel(name: str, kernel: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_stream, "attend", kernel)
    inside, apart, _, _ = packed_and_alone(tiny_model(two_stream_layers=2), name)
    torch.testing.assert_close(torch.cat(inside), torch.cat(apart), rtol=0, atol=1e-10)


@torch.no_grad()
def test_across_documents_the_same_window_is_another_thing() -> None:
    """The test above can fail: without eos_id the first document alone is unchanged, left to right."""
    model, tokens = tiny_model(), windows()
    apart, whole = (ordered_batch(tokens, orders("left_to_right"), BOS, eos_id=end) for end in (EOS, None))
    moved = (model(apart.layout) - model(whole.layout))[..., :VOCAB].abs().amax(-1).t()
    for row, span in spans():
        assert (moved[row, span].max() > 1e-3) == (span.start > 0)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize(("context", "two_stream_layers"), CASES)
@torch.no_grad()
def test_no_leak_and_no_blindness(context: str, two_stream_layers: int, name: str) -> None:
    """A token of another document, its end included, moves nothing; a visible one of the same document does."""
    model = tiny_model(query_context=context, two_stream_layers=two_stream_layers)
    order, lengths = orders(name)[0], torch.tensor(WINDOWS[0])
    places, blocks = (torch.from_numpy(part)[None] for part in (order.position, order.block))
    before = torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)[None].gather(1, places - 1)
    ids = windows()[:1].gather(1, places - 1)

    changed = torch.where(torch.eye(LENGTH + 1, LENGTH) == 1, (ids + 7) % VOCAB, ids)  # one token each, the last none
    where, when, apart = (part.expand_as(changed) for part in (places, blocks, before))
    logits = model(lay_out(changed, where, when, BOS, apart))[..., :VOCAB]
    moved = (logits[:, :-1] - logits[:, -1:]).abs().amax(-1)  # [row, token]
    visible = (blocks[0] < blocks[0, :, None]) & (before[0] == before[0, :, None])
    assert moved[~visible].max() < 1e-12
    if two_stream_layers:  # without such layers some tokens have no way to a prediction, unless left to right
        assert (moved[visible] > 1e-9).all()


@torch.no_grad()
def test_storage_does_not_matter() -> None:
    """Rows in the order's own sequence, documents mixed, give every token the logits that it has side by side."""
    model, tokens, drawn = tiny_model(), windows(), orders("masked_diffusion")
    places, blocks = (torch.from_numpy(np.stack([getattr(o, part) for o in drawn])) for part in ("position", "block"))
    before = tokens_before(tokens, EOS).gather(1, places - 1)
    mixed = model(lay_out(tokens.gather(1, places - 1), places, blocks, BOS, before)).transpose(0, 1)
    sorted_rows = model(ordered_batch(tokens, drawn, BOS, eos_id=EOS).layout).transpose(0, 1)
    stored = before.argsort(dim=1, stable=True)[..., None].expand_as(mixed)
    torch.testing.assert_close(sorted_rows[..., :VOCAB], mixed.gather(1, stored)[..., :VOCAB], rtol=0, atol=1e-10)


def test_windows_of_one_document_keep_the_causal_kernel() -> None:
    tokens, at = windows(), torch.arange(1, LENGTH + 1)[None]
    several, one = (lay_out(row[None], at, at, BOS, tokens_before(row[None], EOS)) for row in tokens[:2])
    assert one.visibility is ALL_CAUSAL
    assert several.visibility.query.blocks is not None
    assert lay_out(tokens[:1], at, at, BOS).visibility is ALL_CAUSAL


def test_tokens_before() -> None:
    tokens = torch.tensor([[5, EOS, 5, 5, EOS, EOS, 5], [5, 5, 5, 5, 5, 5, EOS], [EOS, EOS, 5, 5, 5, 5, 5]])
    wanted = [[0, 0, 2, 2, 2, 5, 6], [0] * 7, [0, 1, 2, 2, 2, 2, 2]]
    assert tokens_before(tokens, EOS).tolist() == wanted


def tiny_denoiser() -> Denoiser:
    config = tiny_config(network="denoiser", num_layers=2)
    model = Denoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.double()


@pytest.mark.parametrize("width", [1, 4, LENGTH])
@torch.no_grad()
def test_a_denoiser_sees_a_document_alone(width: int) -> None:
    """Where windows of block diffusion begin with the document, as they do everywhere in MDLM (one window)."""
    model, tokens = tiny_denoiser(), windows()
    masked = draw_masking(LENGTH, width, seed=0, samples=list(range(len(WINDOWS))))
    logits = model(masked_batch(tokens, masked, width, BOS, eos_id=EOS).layout)
    whole = model(masked_batch(tokens, masked, width, BOS).layout)
    seen = 0
    for row, span in spans():
        if width < LENGTH and span.start % width:
            continue
        part = (slice(row, row + 1), span)
        alone = model(masked_batch(tokens[part], masked[part], width, BOS).layout)[:, 0, :VOCAB]
        torch.testing.assert_close(logits[span, row, :VOCAB], alone, rtol=0, atol=1e-10)
        assert span.start == 0 or (whole[span, row, :VOCAB] - alone).abs().max() > 1e-3
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize("width", [3, 4, LENGTH])
@torch.no_grad()
def test_no_leak_and_no_blindness_of_a_denoiser(width: int) -> None:
    model, tokens = tiny_denoiser(), windows()[:1]
    masked = draw_masking(LENGTH, width, seed=0, samples=[0])
    before = tokens_before(tokens, EOS)[0]
    each, block = torch.arange(LENGTH), torch.arange(LENGTH) // width

    def logits(changed: Tensor) -> Tensor:
        return model(masked_batch(changed, masked, width, BOS, eos_id=EOS).layout)[:, 0, :VOCAB]

    free = tokens[0] != EOS  # the ends decide what a document is
    others = (torch.where(each == token, 3 + (tokens + 4) % (VOCAB - 3), tokens) for token in each[free])
    moved = torch.stack([(logits(changed) - logits(tokens)).abs().amax(-1) for changed in others], dim=1)
    same, known = before == before[:, None], ~masked[0]
    visible = (same & ((block < block[:, None]) | ((block == block[:, None]) & known)))[:, free]
    assert moved[~visible].max() == 0
    assert (moved[visible] > 1e-6).all()
