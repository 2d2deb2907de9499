"""The masked-diffusion baselines: what a row may see, and that the loss is the bound that the papers name."""

import itertools

import numpy as np
import pytest
import torch
from denoiser_toys import mean_loss, tiny_denoiser
from torch import Tensor
from toys import BOS, VOCAB

from armd_dist.model import denoiser
from armd_dist.model.denoiser import Denoiser, lay_out_masked
from armd_dist.objectives.likelihood import token_nll
from armd_dist.objectives.masked_diffusion import draw_masking, masked_batch

LENGTH = 7
WINDOWS = [1, 3, 4, LENGTH]  # MDLM is one window over the whole text


def some_ids(batch: int = 1) -> Tensor:
    return torch.randint(VOCAB, (batch, LENGTH), generator=torch.Generator().manual_seed(batch))


def some_masking(window: int, seed: int = 0) -> Tensor:
    return draw_masking(LENGTH, window, seed=seed, samples=[0])


@torch.no_grad()
def logits_of(model: Denoiser, ids: Tensor, masked: Tensor, window: int) -> Tensor:
    """[batch, rows, vocab]."""
    logits = model(lay_out_masked(ids, masked.expand_as(ids), window, BOS))
    return logits.transpose(0, 1)[..., : model.config.vocab_size]


def influence(model: Denoiser, ids: Tensor, masked: Tensor, window: int) -> Tensor:
    """[n, m]: the largest change of row n's logits when token m is exchanged for another one."""
    count = ids.shape[1]
    changed = ids.expand(count + 1, -1).clone()
    each = torch.arange(count)
    changed[each, each] = (changed[each, each] + 7) % model.config.vocab_size
    logits = logits_of(model, changed, masked, window)
    return (logits[:-1] - logits[-1:]).abs().amax(-1).t()


def may_see(masked: Tensor, window: int) -> Tensor:
    """[n, m]: tokens of earlier windows, and the known ones of one's own."""
    of = torch.arange(masked.shape[1]) // window
    return (of[None] < of[:, None]) | ((of[None] == of[:, None]) & ~masked)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("window", WINDOWS)
def test_no_leak_and_no_blindness(window: int, seed: int) -> None:
    ids, masked = some_ids(), some_masking(window, seed)
    found, allowed = influence(tiny_denoiser(), ids, masked, window), may_see(masked, window)
    assert found[~allowed].max() < 1e-12
    assert (found[allowed] > 1e-6).all()


@pytest.mark.parametrize("window", WINDOWS)
def test_no_leak_by_gradient(window: int) -> None:
    """Rows of distinct tokens and an untied head: an embedding row is one token's input and nothing else."""
    model, masked = tiny_denoiser(), some_masking(window)
    ids = 2 + torch.randperm(VOCAB - 2, generator=torch.Generator().manual_seed(0))[None, :LENGTH]
    logits = model(lay_out_masked(ids, masked, window, BOS))[:, 0]
    direction = torch.randn(logits.shape[-1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = model.tokens.get_parameter("weight")
    scores = logits.masked_fill(logits.isinf(), 0.0) @ direction
    moved = torch.stack(
        [torch.autograd.grad(score, weight, retain_graph=True)[0][ids[0]].abs().amax(-1) for score in scores]
    )
    allowed = may_see(masked, window)
    assert moved[~allowed].max() == 0
    assert (moved[allowed] > 0).all()


def test_a_mask_that_shows_the_clean_copy_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(clean: Tensor, text: Tensor) -> Tensor:
        return (torch.cat((clean, text))[None, :] <= text[:, None])[None]

    monkeypatch.setattr(denoiser, "_of_text", leaky)
    ids, masked = some_ids(), some_masking(3)
    assert influence(tiny_denoiser(), ids, masked, 3)[~may_see(masked, 3)].max() > 1e-4


def test_one_pass_over_all_windows_equals_a_pass_for_each() -> None:
    model, ids, masked = tiny_denoiser(), some_ids(2), some_masking(3)
    together = logits_of(model, ids, masked, window=3)
    for start in range(0, LENGTH, 3):
        upto = slice(0, start + 3)
        apart = logits_of(model, ids[:, upto], masked[:, upto], window=3)
        torch.testing.assert_close(apart[:, start:], together[:, start : start + 3], rtol=0, atol=1e-10)


@torch.no_grad()
def integral_nelbo(model: Denoiser, text: Tensor, window: int) -> float:
    """The papers' bound: for each window the integral over t of E[1/t x the nats of its tokens hidden with chance t],
    of a text that ends there, its earlier windows known. A polynomial in t: Gauss' quadrature is exact."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    total = 0.0
    for start in range(0, len(text), window):
        upto = text[None, : start + window]
        width = upto.shape[1] - start
        for hidden in itertools.product([False, True], repeat=width):
            masked, count = torch.tensor((False,) * start + hidden)[None], sum(hidden)
            if count:
                nll = token_nll(model, lay_out_masked(upto, masked, window, BOS), upto)[masked.t()].sum().item()
                for node, weight in zip(nodes, weights, strict=True):
                    t = (node + 1) / 2
                    total += weight / 2 * t**count * (1 - t) ** (width - count) / t * nll
    return total


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_the_mean_loss_is_the_nelbo_of_the_log_linear_schedule(window: int) -> None:
    model, text = tiny_denoiser(vocab_size=3), torch.tensor([2, 0, 1, 1])
    assert mean_loss(model, text, window) == pytest.approx(integral_nelbo(model, text, window), abs=1e-10)


def test_windows_of_one_token_are_an_exact_likelihood() -> None:
    model = tiny_denoiser(vocab_size=3)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    assert sum(np.exp(-mean_loss(model, text, window=1)) for text in texts) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("window", [2, 4])
def test_the_bound_is_one(window: int) -> None:
    """exp(-NELBO) of all texts sums to at most one, and falls short of it for an untrained network of several steps."""
    model = tiny_denoiser(vocab_size=3)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    assert sum(np.exp(-mean_loss(model, text, window)) for text in texts) < 1 - 1e-6


def test_the_loss_of_a_batch_is_the_weighted_mean() -> None:
    model, ids = tiny_denoiser(), some_ids(3)
    batch = masked_batch(ids, draw_masking(LENGTH, 3, seed=0, samples=[4, 5, 6]), 3, BOS)
    assert batch.weights is not None
    of_window = [batch.weights[:, start : start + 3].sum(1) for start in range(0, LENGTH, 3)]
    assert torch.stack(of_window, 1).tolist() == [[3, 3, 1]] * 3
    nll = token_nll(model, batch.layout, ids)
    assert batch.loss(model).nll.item() == pytest.approx(
        (nll * batch.weights.t()).sum().item() / (3 * LENGTH), rel=1e-9
    )
