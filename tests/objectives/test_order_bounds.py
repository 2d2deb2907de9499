"""The bounds of masked diffusion under any order, against what they bound: everything enumerated, in float64."""

import itertools
import math

import pytest
import torch
from order_toys import (
    all_maskings,
    all_texts,
    forward_scheduler,
    likelihood,
    nelbo,
    nelbo_by_states,
    order_bound,
    random_tables,
    reader,
    spread_over,
    visits,
)

from armd_dist.objectives.schedulers import Scheduler, learned_exponents, polynomial, uniform, windowed

CASES = [(3, 2, 0), (3, 3, 1), (4, 2, 2), (4, 2, 3)]  # length, vocabulary, seed


def fixed(length: int) -> dict[str, Scheduler]:
    """Schedulers that read nothing: of AR, block diffusion, MDLM, and an order in the exponents alone."""
    exponents = torch.linspace(0.3, 1.7, length, dtype=torch.float64)[None]
    windows = {f"windows of {window}": windowed(1, length, window) for window in range(1, length + 1)}
    return {**windows, "uniform": uniform(1, length), "polynomial": polynomial(exponents)}


@pytest.mark.parametrize(("length", "vocab", "seed"), CASES)
def test_the_exact_likelihood_sums_to_one(length: int, vocab: int, seed: int) -> None:
    tables = random_tables(length, vocab, seed)
    for read in [reader(tables), *(reader(tables, reverse) for reverse in fixed(length).values())]:
        assert sum(likelihood(read, text) for text in all_texts(tables)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("length", "vocab", "seed"), CASES)
def test_each_bound_is_above_the_next(length: int, vocab: int, seed: int) -> None:
    """NELBO > order form > -log p for learned schedulers; tables that differ everywhere leave room between them."""
    tables = random_tables(length, vocab, seed)
    for text in all_texts(tables):
        forward, read = forward_scheduler(tables, text), reader(tables)
        loose, tight = nelbo_by_states(read, forward, text).item(), order_bound(read, forward, text).item()
        assert loose > tight + 1e-6
        assert tight > -math.log(likelihood(read, text)) + 1e-6


def test_what_the_nelbo_has_on_top_is_how_long_states_last() -> None:
    tables = random_tables(4)
    for text in all_texts(tables):
        forward, read, states = forward_scheduler(tables, text), reader(tables), all_maskings(4)[1:]
        theirs = (read(text.expand(15, -1), states).scheduler.exponents * states).sum(1)
        ratio = theirs / (forward.exponents * states).sum(1)
        gap = (visits(forward, 4) * (ratio - 1 - ratio.log())).sum().item()
        difference = nelbo_by_states(read, forward, text) - order_bound(read, forward, text)
        assert difference.item() == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize(("length", "vocab", "seed"), CASES[:3])
def test_the_integral_over_time_is_the_sum_over_states(length: int, vocab: int, seed: int) -> None:
    tables = random_tables(length, vocab, seed)
    text = all_texts(tables)[seed + 1]
    for forward in (forward_scheduler(tables, text), fixed(length)["uniform"], fixed(length)["polynomial"]):
        found = nelbo(reader(tables), forward, text)
        assert found == pytest.approx(nelbo_by_states(reader(tables), forward, text).item(), abs=1e-10)


@pytest.mark.parametrize("name", fixed(4))
@pytest.mark.parametrize(("length", "vocab", "seed"), CASES[1:3])
def test_fixed_schedulers_of_both_sides(length: int, vocab: int, seed: int, name: str) -> None:
    """Nothing about the order is unknown then, so both bounds are its cross-entropy."""
    scheduler = fixed(length).get(name, uniform(1, length))
    tables = random_tables(length, vocab, seed)
    text, read = all_texts(tables)[3], reader(tables, scheduler)
    assert nelbo(read, scheduler, text) == pytest.approx(order_bound(read, scheduler, text).item(), abs=1e-10)
    assert order_bound(read, scheduler, text).item() > -math.log(likelihood(read, text)) - 1e-12


@pytest.mark.parametrize(("length", "vocab", "seed"), CASES)
def test_one_window_for_each_position_is_autoregressive(length: int, vocab: int, seed: int) -> None:
    """The NELBO is then the chain rule's NLL, and no bound any more."""
    tables = random_tables(length, vocab, seed)
    scheduler = windowed(1, length, 1)
    read = reader(tables, scheduler)
    for text in all_texts(tables)[:5]:
        hidden = torch.ones(length, length).triu().bool()  # row n knows the tokens before n
        log_probabilities = read(text.expand(length, -1), hidden).log_probabilities
        nll = -sum(log_probabilities[n, n, text[n]].item() for n in range(length))
        assert nelbo(read, scheduler, text) == pytest.approx(nll, abs=1e-10)
        assert -math.log(likelihood(read, text)) == pytest.approx(nll, abs=1e-10)


def test_the_order_form_is_the_mean_over_orders() -> None:
    """Order by order: log q(order | text) - log p(text in this order), which the sum over states takes together."""
    tables = random_tables(4, seed=5)
    for table in tables:
        table.requires_grad_()
    for text in all_texts(tables)[::3]:
        forward, read = forward_scheduler(tables, text), reader(tables)
        mean = torch.zeros((), dtype=torch.float64)
        for order in itertools.permutations(range(4)):
            hidden, difference, chance = torch.ones(1, 4, dtype=torch.bool), mean.new_zeros(()), mean.new_ones(())
            for place in order:
                weights = forward.exponents[0] * hidden[0]
                reading = read(text[None], hidden)
                theirs = reading.scheduler.exponents[0] * hidden[0]
                step = weights[place] / weights.sum()
                chance = chance * step
                difference = difference + step.log() - (theirs[place] / theirs.sum()).log()
                difference = difference - reading.log_probabilities[0, place, text[place]]
                hidden = hidden & (torch.arange(4) != place)
            mean = mean + chance * difference
        bound = order_bound(read, forward, text)
        assert bound.item() == pytest.approx(mean.item(), abs=1e-12)
        gradients = (torch.autograd.grad(value, tables, retain_graph=True) for value in (bound, mean))
        for mine, exact in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, exact, rtol=0, atol=1e-12)


def test_a_reverse_process_that_cannot_follow_has_an_infinite_bound() -> None:
    tables = random_tables(3)
    text = all_texts(tables)[0]
    assert order_bound(reader(tables, windowed(1, 3, 1)), windowed(1, 3, 3), text).item() == math.inf
    assert nelbo(reader(tables, windowed(1, 3, 1)), windowed(1, 3, 3), text) == math.inf


def test_equal_exponents_leave_the_time_out() -> None:
    """t^w for all positions is the uniform schedule on another clock: the bound does not see it (derived)."""
    tables = random_tables(3)
    text, one = all_texts(tables)[5], uniform(1, 3)
    slow = polynomial(0.4 * one.exponents)
    assert nelbo(reader(tables, slow), slow, text) == pytest.approx(nelbo(reader(tables, one), one, text), abs=1e-10)


def test_learned_exponents_are_positive_and_of_one_sum() -> None:
    scores = 50 * torch.randn(40, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exponents = learned_exponents(scores, 0.7, 0.65)
    assert exponents.min() > 0.05
    torch.testing.assert_close(exponents.sum(1), torch.full((40,), 9 * 0.7, dtype=torch.float64), rtol=0, atol=1e-12)
    squashed = scores.sigmoid()
    torch.testing.assert_close(exponents.diff(dim=1), 0.65 * squashed.diff(dim=1), rtol=0, atol=1e-14)
    assert torch.equal(learned_exponents(scores, 1, 0), torch.ones(40, 9, dtype=torch.float64))
    for centre, spread in ((0.65, 0.65), (0.5, 0.7), (0.5, -0.1), (0.0, 0.0)):
        with pytest.raises(ValueError, match="use 0 <= c2 < c1"):
            learned_exponents(scores, centre, spread)


def test_the_uniform_schedule_keeps_nothing_of_the_scores() -> None:
    scores = torch.randn(2, 5, dtype=torch.float64)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    learned, plain = polynomial(learned_exponents(scores, 1, 0)), spread_over(uniform(1, 5), 2)
    assert torch.equal(learned.velocity(t), plain.velocity(t))
    assert torch.equal(learned.log_hidden(t), plain.log_hidden(t))
