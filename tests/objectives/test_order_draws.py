"""Maskings as states of a drawn order: the same bound as over time, its gradient, and its variance."""

import itertools
import math

import pytest
import torch
from order_toys import (
    Tables,
    all_maskings,
    all_texts,
    forward_scheduler,
    nelbo_by_states,
    nll_of,
    noise_for,
    random_tables,
    reader,
    singular_times,
    terms_at,
    visits,
)
from torch import Tensor

from armd_dist.objectives.masked_diffusion import nelbo_weights
from armd_dist.objectives.order_diffusion import leave_one_out, nelbo_terms
from armd_dist.objectives.order_draws import Drawn, at_state

TEXT = torch.tensor([1, 0, 1])
ORDERS = list(itertools.permutations(range(3)))
EXPONENTS = torch.tensor([0.2, 0.5, 1.4], dtype=torch.float64)


def drawn(exponents: Tensor, count: int) -> Drawn:
    """All orders in which `count` positions of three are still hidden."""
    noise = torch.stack([noise_for(order, exponents.detach()) for order in ORDERS])
    share = torch.full((len(ORDERS),), (count - 0.5) / 3, dtype=torch.float64)
    return at_state(exponents.expand(len(ORDERS), -1), share, noise)


def test_what_is_hidden_comes_last_in_an_order_of_plackett_and_luce() -> None:
    for count in (1, 2, 3):
        found = drawn(EXPONENTS, count)
        for row, order in enumerate(ORDERS):
            hidden = set(order[3 - count :])
            assert {place for place in range(3) if found.hidden[row, place]} == hidden
            left, chance = EXPONENTS.sum().item(), 1.0
            for place in order[: 3 - count]:
                chance *= EXPONENTS[place].item() / left
                left -= EXPONENTS[place].item()
            assert found.log_probability[row].item() == pytest.approx(math.log(chance), abs=1e-12)
            assert found.clock[row].item() == pytest.approx(3 / left, rel=1e-12)


def test_noise_draws_orders_by_the_exponents() -> None:
    draws = 20_000
    noise = torch.rand(draws, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.tensor(0.5, dtype=torch.float64).expand(draws)  # two hidden: the known one is the first
    counts = (~at_state(EXPONENTS.expand(draws, -1), share, noise).hidden).sum(0)
    wanted = draws * EXPONENTS / EXPONENTS.sum()
    assert ((counts - wanted).square() / wanted).sum() < 18.4  # 2 degrees of freedom: once in 10,000 seeds


def mean_estimate(tables: Tables) -> tuple[Tensor, Tensor]:
    """The mean loss over numbers of hidden positions and orders, and the mean of the estimator over pairs of orders."""
    exponents = forward_scheduler(tables, TEXT).exponents[0]
    chance = drawn(exponents, 1).log_probability.exp().detach()  # of the whole order: the last has no choice
    first, second = (index.flatten() for index in torch.meshgrid(*[torch.arange(len(ORDERS))] * 2, indexing="ij"))
    loss, estimate = torch.zeros(2, dtype=torch.float64)
    for count in (1, 2, 3):
        found = drawn(exponents, count)
        reading = reader(tables)(TEXT.expand(len(ORDERS), -1), found.hidden)
        rates = exponents * found.clock[:, None], reading.scheduler.exponents * found.clock[:, None]
        losses = nelbo_terms(nll_of(reading, TEXT), found.hidden, *rates).of_texts().total
        chances = found.log_probability[first], found.log_probability[second]
        loss = loss + chance @ losses / 3
        objective = leave_one_out((losses[first], losses[second]), chances)
        estimate = estimate + (chance[first] * chance[second]) @ objective / 3
    return loss, estimate


def test_states_give_the_nelbo_and_its_gradient() -> None:
    """To 1e-10, against the sum over all states: for the denoiser, g_psi and g_phi."""
    tables = random_tables(3)
    for table in tables:
        table.requires_grad_()
    wanted = nelbo_by_states(reader(tables), forward_scheduler(tables, TEXT), TEXT)
    loss, estimate = mean_estimate(tables)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-12)
    gradients = (torch.autograd.grad(value, tables) for value in (estimate, wanted))
    for mine, exact in zip(*gradients, strict=True):
        assert exact.abs().max() > 1e-3
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-10)


def test_equal_exponents_are_the_maskings_and_weights_of_mdlm() -> None:
    noise = torch.rand(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    found = at_state(torch.ones_like(noise), share, noise)
    assert torch.equal(found.hidden.sum(1), 1 + (share * 7).long())
    assert torch.equal(found.hidden, noise.argsort(1).argsort(1) < found.hidden.sum(1, keepdim=True))
    torch.testing.assert_close(found.hidden * found.clock[:, None], nelbo_weights(found.hidden, 7), rtol=1e-12, atol=0)


def test_the_variance_over_time_has_no_bound() -> None:
    """Times down to 1e-6, 1e-12 and 1e-24: the second moment goes on growing. That of states is below all of them."""
    tables = random_tables(4)
    text = all_texts(tables)[5]
    forward, moments = forward_scheduler(tables, text), []
    for least in (1e-6, 1e-12, 1e-24):
        moment = 0.0
        for t, weight in singular_times():
            if t > least:
                log_chance, terms = terms_at(reader(tables), forward, text, t)
                moment += weight * (log_chance.exp() * terms.total.square()).sum().item()
        moments.append(moment)
    states = all_maskings(4)[1:]
    reading, rates = reader(tables)(text.expand(len(states), -1), states), forward.exponents.expand(len(states), -1)
    clock = 4 / (rates * states).sum(1, keepdim=True)
    terms = nelbo_terms(nll_of(reading, text), states, rates * clock, reading.scheduler.exponents * clock).of_texts()
    assert (visits(forward, 4) / 4 * terms.total.square()).sum() < moments[0] / 2
    assert moments[1] > 10 * moments[0]
    assert moments[2] > 1000 * moments[1]
