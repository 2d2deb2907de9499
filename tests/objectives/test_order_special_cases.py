"""MDLM, block diffusion and AR, as they are trained here, are cases of the bound under any order."""

import pytest
import torch
from denoiser_toys import mean_loss, tiny_denoiser
from order_toys import nelbo, order_bound, spread_over
from torch import Tensor
from toys import BOS, tiny_model

from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser, lay_out_masked
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.objectives.reverse_process import Read, Reading
from armd_dist.objectives.schedulers import Scheduler, learned_exponents, polynomial, windowed
from armd_dist.orders.schemes import left_to_right

TEXT = torch.tensor([2, 0, 1, 1])
LENGTH = len(TEXT)
SCORES = torch.tensor([[3.0, -1.0, 0.5, 2.0]], dtype=torch.float64)


def denoising(model: Denoiser, window: int, reverse: Scheduler) -> Read:
    @torch.no_grad()
    def read(ids: Tensor, hidden: Tensor) -> Reading:
        logits = model(lay_out_masked(ids, hidden, window, BOS)).transpose(0, 1)[..., : model.config.vocab_size]
        return Reading(logits.log_softmax(-1), spread_over(reverse, len(ids)))

    return read


def autoregressive(model: ARMD, reverse: Scheduler) -> Read:
    """Row n of the two-stream network, which knows the tokens before n; hidden ones are replaced by 0."""

    @torch.no_grad()
    def read(ids: Tensor, hidden: Tensor) -> Reading:
        batch = ordered_batch(ids * ~hidden, [left_to_right(LENGTH)] * len(ids), BOS)
        logits = model(batch.layout).transpose(0, 1)[..., : model.config.vocab_size]
        return Reading(logits.log_softmax(-1), spread_over(reverse, len(ids)))

    return read


def test_without_learning_it_is_mdlm() -> None:
    """c2 = 0 and c1 = 1, whatever the scores are."""
    model, scheduler = tiny_denoiser(vocab_size=3), polynomial(learned_exponents(SCORES, 1, 0))
    wanted = mean_loss(model, TEXT, LENGTH)
    read = denoising(model, LENGTH, scheduler)
    assert nelbo(read, scheduler, TEXT) == pytest.approx(wanted, abs=1e-9)
    assert order_bound(read, scheduler, TEXT).item() == pytest.approx(wanted, abs=1e-9)
    learned = polynomial(learned_exponents(SCORES, 0.7, 0.65))
    assert abs(nelbo(denoising(model, LENGTH, learned), learned, TEXT) - wanted) > 1e-4


@pytest.mark.parametrize("window", [1, 2, 3])
def test_shared_windows_are_block_diffusion(window: int) -> None:
    """Windows of one token are the denoiser's AR."""
    model, scheduler = tiny_denoiser(vocab_size=3), windowed(1, LENGTH, window)
    read = denoising(model, window, scheduler)
    wanted = mean_loss(model, TEXT, window)
    assert nelbo(read, scheduler, TEXT) == pytest.approx(wanted, abs=1e-9)
    assert order_bound(read, scheduler, TEXT).item() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("two_stream_layers", [0, 2])
def test_windows_of_one_token_are_autoregressive(two_stream_layers: int) -> None:
    model, scheduler = tiny_model(vocab_size=3, two_stream_layers=two_stream_layers), windowed(1, LENGTH, 1)
    wanted = LENGTH * ordered_batch(TEXT[None], [left_to_right(LENGTH)], BOS).loss(model).nll.item()
    read = autoregressive(model, scheduler)
    assert nelbo(read, scheduler, TEXT) == pytest.approx(wanted, abs=1e-9)
    assert order_bound(read, scheduler, TEXT).item() == pytest.approx(wanted, abs=1e-9)
