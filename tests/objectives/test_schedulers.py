"""alpha, velocity and maskings of the schedulers, by their definitions and at the ends of the time."""

import math

import pytest
import torch
from order_toys import EXPONENTS, LENGTH, SCHEDULERS, all_maskings, spread_over

from armd_dist.objectives.schedulers import Scheduler, learned_exponents, polynomial, windowed
from armd_dist.orders.masking import masking_noise, masking_times

TIMES = torch.tensor([0.01, 0.1, 0.37, 0.5, 0.55, 0.83, 0.99], dtype=torch.float64)


def at_times(scheduler: Scheduler) -> Scheduler:
    return spread_over(scheduler, len(TIMES))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_velocity_is_that_of_alpha(name: str) -> None:
    """A = -d alpha/dt / (1 - alpha) = d log(1 - alpha) / dt."""
    scheduler = at_times(SCHEDULERS[name])
    t = TIMES.clone().requires_grad_()
    for place in range(LENGTH):
        log_hidden = scheduler.log_hidden(t)[:, place]
        possible = log_hidden > -math.inf
        slope = torch.autograd.grad(log_hidden[possible].sum(), t)[0]
        torch.testing.assert_close(scheduler.velocity(t)[:, place], slope, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_maskings_are_a_distribution(name: str) -> None:
    maskings = all_maskings(LENGTH)
    scheduler = spread_over(SCHEDULERS[name], len(maskings))
    for t in [0.0, *TIMES.tolist(), 1.0]:
        chances = scheduler.log_probability(maskings, torch.full((len(maskings),), t, dtype=torch.float64)).exp()
        assert chances.sum().item() == pytest.approx(1, abs=1e-12)
        hidden = (chances[:, None] * maskings).sum(0)
        torch.testing.assert_close(hidden, scheduler.log_hidden(torch.full_like(chances, t))[0].exp())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_place_is_hidden_where_its_noise_is_below(name: str) -> None:
    scheduler = at_times(SCHEDULERS[name])
    chance = scheduler.log_hidden(TIMES).exp()
    assert torch.equal(scheduler.hide(TIMES, (chance * 0.999).clamp(max=0.999)), chance > 0)
    assert not scheduler.hide(TIMES, chance * 1.001)[chance < 1].any()
    start, end = (torch.full((len(TIMES),), t, dtype=torch.float64) for t in (0, 1))
    assert not scheduler.hide(start, torch.zeros_like(chance)).any()
    assert scheduler.hide(end, torch.full_like(chance, 1 - 1e-16)).all()


def test_windows_come_one_after_another() -> None:
    """Three windows of 5 places by 2: at t = 0.5 the first is hidden with chance 0, the second 1/2, the last 1."""
    half = torch.tensor([0.5], dtype=torch.float64)
    assert windowed(1, 5, 2).log_hidden(half).exp()[0].tolist() == pytest.approx([0, 0, 0.5, 0.5, 1])
    assert windowed(1, 5, 2).velocity(half)[0].tolist() == pytest.approx([0, 0, 6, 6, 0])


@pytest.mark.parametrize("t", [1e-300, 1e-30, 1 - 1e-15])
def test_nothing_is_lost_near_the_ends(t: float) -> None:
    time = torch.tensor([t], dtype=torch.float64)
    scheduler = polynomial(EXPONENTS)
    torch.testing.assert_close(scheduler.log_hidden(time), EXPONENTS * math.log(t), rtol=1e-15, atol=0)
    torch.testing.assert_close(scheduler.velocity(time), EXPONENTS / t, rtol=1e-15, atol=0)
    known = [math.log(-math.expm1(w * math.log(t))) for w in EXPONENTS[0].tolist()]
    assert scheduler.log_known(time)[0].tolist() == pytest.approx(known, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("t", [0.0, 1e-300, 0.2, 1 - 2**-53, 1.0])
@pytest.mark.parametrize("turns", [1, 3])
def test_gradients_are_finite_at_every_time(turns: int, t: float) -> None:
    """Also where a masking is certain, or a position is outside of its window."""
    scores = torch.randn(1, 3, dtype=torch.float64, requires_grad=True)
    scheduler = Scheduler(learned_exponents(scores, 0.7, 0.65), torch.tensor([[0, 1, 2]]) % turns, turns)
    time = torch.tensor([t], dtype=torch.float64)
    hidden = scheduler.hide(time, torch.full((1, 3), 0.5, dtype=torch.float64))
    value = scheduler.log_probability(hidden, time) + (scheduler.velocity(time) * min(1, t)).sum()
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), scores)[0].isfinite().all()


def test_times_spread_evenly_and_depend_on_the_sample_alone() -> None:
    times = masking_times(7, range(1000, 1064))
    assert ((times >= 0) & (times < 1)).all()
    for first in range(0, 48):
        quarters = torch.tensor(times[first : first + 16] * 4).long().bincount(minlength=4)
        assert quarters.min() >= 3
    assert masking_times(7, [1010, 1003]).tolist() == times[[10, 3]].tolist()
    assert masking_times(8, [1010])[0] != times[10]


def test_noise_is_keyed_by_sample_and_draw() -> None:
    noise = masking_noise(6, seed=7, samples=[3, 9], draw=0)
    assert noise.shape == (2, 6)
    assert masking_noise(6, 7, [9], 0).tolist() == noise[1:].tolist()
    others = [masking_noise(6, 7, [3], 1), masking_noise(6, 8, [3], 0), noise[1:]]
    assert all((other != noise[0]).all() for other in others)
