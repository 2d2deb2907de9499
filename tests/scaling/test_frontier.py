"""What follows from a law: the best split of compute, AR's equivalent, isoFLOP curves."""

from dataclasses import replace

import numpy as np
import pytest

from armd_dist.scaling.frontier import Cost, best_of, compute_ratio, growth, parabola
from armd_dist.scaling.law import Law

LAW = Law(*map(np.float64, (1.69, 406.4, 410.7, 0.34, 0.28)))  # type: ignore[arg-type]
COST = Cost(9.0, 0.95, 0.0)


def test_the_best_split_is_that_of_a_search() -> None:
    sizes = np.geomspace(1e4, 1e10, 200_001)
    for flops in (1e13, 1e18):
        losses = LAW.loss(sizes, flops / (COST.factor * sizes**COST.power))
        best = best_of(LAW, COST, flops)
        assert float(best.parameters) == pytest.approx(sizes[losses.argmin()], rel=1e-3)
        assert float(best.loss) == pytest.approx(losses.min(), rel=1e-9)
        assert COST.factor * best.parameters**COST.power * best.tokens == pytest.approx(flops)


def test_growth_is_the_slope_of_the_best_sizes() -> None:
    first, second = (float(best_of(LAW, COST, flops).parameters) for flops in (1e15, 1e17))
    assert np.log(second / first) / np.log(100) == pytest.approx(float(growth(LAW, COST)))


def test_cost_is_found_and_its_error_told() -> None:
    sizes = np.array([1e6, 1e7, 1e8])
    cost = Cost.of(sizes, 9 * sizes**0.95)
    assert (cost.factor, cost.power) == pytest.approx((9, 0.95))
    assert cost.error < 1e-9
    assert Cost.of(sizes, 9 * sizes**0.95 * np.array([1, 1.1, 1])).error > 0.03


def test_a_law_that_costs_twice_as_much_has_half_the_ratio() -> None:
    dear = replace(COST, factor=2 * COST.factor)
    assert float(compute_ratio(LAW, dear, LAW, COST, 1e15)) == pytest.approx(0.5)
    assert float(compute_ratio(LAW, COST, LAW, dear, 1e15)) == pytest.approx(2.0)


def test_what_the_reference_never_reaches_is_infinite() -> None:
    worse = replace(LAW, E=np.float64(2.5))  # type: ignore[arg-type]
    assert float(compute_ratio(LAW, COST, worse, COST, 1e24)) == np.inf


def test_a_parabola_comes_back_with_its_bottom() -> None:
    sizes = np.geomspace(1e5, 1e7, 6)
    x = np.log(sizes / 1.3e6)
    found = parabola(1e13, sizes, 3 + 0.1 * x**2, draws=200)
    assert found is not None
    assert found.parameters == pytest.approx(1.3e6)
    assert found.inside
    noisy = parabola(1e13, sizes, 3 + 0.1 * x**2 + 0.02 * np.array([1, -1, 1, -1, 1, -1]), draws=500)
    assert noisy is not None
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < 1.3e6 < noisy.high
    upside_down = parabola(1e13, sizes, 3 - 0.1 * x**2, draws=200)
    assert upside_down is not None
    assert upside_down.parameters is None
    assert parabola(1e13, sizes[:2], np.array([3.0, 3.1]), draws=200) is None
