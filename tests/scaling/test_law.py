"""The law of loss by size and tokens: what is put in comes out again, with intervals that hold it."""

import numpy as np
import pytest
import torch

from armd_dist.scaling.law import NAMES, Array, Fit, Law, fit_law

# Chinchilla's.
TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "a": 0.34, "b": 0.28}
LAW = Law(**{name: np.float64(value) for name, value in TRUE.items()})  # type: ignore[arg-type]
DELTA = 0.01


def study(sizes: int, budgets: int, noise: float, seed: int) -> tuple[Array, Array, Array]:
    """Points of a grid from 0.2M to 3M parameters, with noise of log loss."""
    grid = np.meshgrid(np.geomspace(2e5, 3e6, sizes), np.geomspace(3e5, 4e6, budgets))
    parameters, tokens = (side.ravel() for side in grid)
    off = noise * np.random.default_rng(seed).standard_normal(len(parameters))
    return parameters, tokens, LAW.loss(parameters, tokens) * np.exp(off)


def holds(fit: Fit, name: str) -> bool:
    low, high = fit.interval(name)
    return low <= TRUE[name] <= high


def held(studies: int, draws: int, sizes: int, budgets: int, noise: float) -> dict[str, int]:
    fits = [fit_law(*study(sizes, budgets, noise, seed), DELTA, draws, seed) for seed in range(studies)]
    return {name: sum(holds(fit, name) for fit in fits) for name in NAMES}


def test_without_noise_the_law_itself_is_found() -> None:
    fit = fit_law(*study(4, 3, 0.0, 0), DELTA, 100)
    for name, value in TRUE.items():
        assert float(getattr(fit.best, name)) == pytest.approx(value, rel=1e-4), name


def test_intervals_hold_the_truth() -> None:
    found = held(studies=20, draws=150, sizes=4, budgets=3, noise=0.005)
    assert min(found.values()) >= 17, found


@pytest.mark.grid
@pytest.mark.parametrize(("sizes", "budgets", "noise"), [(4, 3, 0.005), (4, 3, 0.01), (5, 5, 0.005)])
def test_intervals_hold_the_truth_in_90_of_100_studies(sizes: int, budgets: int, noise: float) -> None:
    found = held(studies=100, draws=200, sizes=sizes, budgets=budgets, noise=noise)
    assert min(found.values()) >= 90, found


def test_intervals_are_not_much_wider_than_the_scatter_of_studies() -> None:
    """Else they would hold everything."""
    fits = [fit_law(*study(4, 3, 0.005, seed), DELTA, 100, seed) for seed in range(20)]
    scatter = float(np.std([float(fit.best.b) for fit in fits]))
    width = float(np.median([np.subtract(*fit.interval("b")[::-1]) for fit in fits]))
    assert width < 2.2 * 3.92 * scatter


def test_an_outlier_counts_little() -> None:
    parameters, tokens, losses = study(5, 5, 0.001, 0)
    losses[7] *= 1.3
    fit = fit_law(parameters, tokens, losses, 0.001, 100)
    assert float(fit.best.a) == pytest.approx(TRUE["a"], abs=0.03)
    assert float(fit.residuals[7]) == pytest.approx(np.log(1.3), abs=0.02)


def test_no_other_solver_comes_lower() -> None:
    parameters, tokens, losses = study(4, 3, 0.01, 3)
    fit = fit_law(parameters, tokens, losses, DELTA, 100)
    log_n, log_d, target = (torch.from_numpy(np.log(each)) for each in (parameters, tokens, losses))

    def cost(solved: torch.Tensor) -> torch.Tensor:
        e, a, b, of_n, of_d = solved
        terms = torch.stack([e.expand_as(log_n), a - of_n.exp() * log_n, b - of_d.exp() * log_d])
        off = target - terms.logsumexp(0)
        return torch.nn.functional.huber_loss(off, torch.zeros_like(off), delta=DELTA, reduction="sum")

    ours = torch.log(torch.tensor([float(getattr(fit.best, name)) for name in NAMES], dtype=torch.float64))
    solved = ours.clone().requires_grad_()
    solver = torch.optim.LBFGS([solved], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

    def closure() -> float:
        solver.zero_grad()
        value = cost(solved)
        value.backward()
        return value.item()

    solver.step(closure)
    assert cost(ours).item() <= cost(solved.detach()).item() * (1 + 1e-5)
