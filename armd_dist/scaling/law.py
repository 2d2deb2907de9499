"""Loss as a law of parameters N and tokens D: L(N, D) = E + A / N^a + B / D^b (Hoffmann et al. 2022, section 3.3).

Fitted on log L under a Huber loss. All starts, and all draws of the bootstrap, are solved side by side by
Levenberg-Marquardt: thousands of small problems take a second in NumPy.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NAMES = ("E", "A", "B", "a", "b")
# Scale and exponents that a start is made of: the share of the lowest loss that is E, and both exponents.
E_SHARES, EXPONENTS = (0.1, 0.4, 0.7, 0.9), (0.1, 0.3, 0.6, 1.0)
# Of all starts, then of the nearest to the ground, then of each draw, which begins at the best.
FIRST, LAST, OF_A_DRAW = 40, 200, 50
FINALISTS = 6
# Of the logarithms of what is fitted: wider than any law, so that no sum overflows.
LOWEST = np.array([-12.0, -12.0, -12.0, -5.0, -5.0])
HIGHEST = np.array([4.0, 8.0, 8.0, 1.5, 1.5])
LARGEST_LEVERAGE = 0.98
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Law:
    """One law, or many: each field a number or an array of one shape. E in nats; N in parameters, D in tokens."""

    E: Array
    A: Array
    B: Array
    a: Array
    b: Array

    def loss(self, parameters: Array | float, tokens: Array | float) -> Array:
        """Nats for a token."""
        return self.E + self.A * np.power(parameters, -self.a) + self.B * np.power(tokens, -self.b)


@dataclass(frozen=True)
class Fit:
    """best: the law; draws: those of the bootstrap, in arrays; residuals: log of loss over law, point by point."""

    best: Law
    draws: Law
    residuals: Array

    def interval(self, name: str) -> tuple[float, float]:
        """95 %, of one of NAMES."""
        return interval_of(getattr(self.draws, name))


def interval_of(values: Array) -> tuple[float, float]:
    """The middle 95 % of draws; infinite ones count at their end."""
    low, high = np.percentile(values, INTERVAL, method="nearest")
    return float(low), float(high)


def fit_law(parameters: Array, tokens: Array, losses: Array, delta: float, draws: int, seed: int = 0) -> Fit:
    """Fits points [n] with n > 5; `delta` is where Huber's loss turns from squares to absolute values, in log L.

    The bootstrap draws residuals anew, not points: few of these determine the law, and without one of them it would be
    another study. Residuals are divided by 1 - leverage, as in HC3 (MacKinnon and White 1985), and each draw is scaled
    by sqrt(dof / chi^2(dof)): of few points the noise itself is known roughly. Rather wide than narrow (our choice; the
    tests hold the intervals against synthetic studies).
    """
    problem = _Problem.of(parameters, tokens, delta)
    target = np.log(losses)
    starts = _starts(target)
    solved, costs = problem.solve(starts, np.tile(target, (len(starts), 1)), FIRST)
    finalists = solved[np.argsort(costs)[:FINALISTS]]
    solved, costs = problem.solve(finalists, np.tile(target, (FINALISTS, 1)), LAST)
    best = solved[np.argmin(costs)]
    residuals = target - problem.log_loss(best[None])[0]
    drawn = problem.redraw(best, residuals, draws, np.random.default_rng(seed))
    again, _ = problem.solve(np.tile(best, (draws, 1)), drawn, OF_A_DRAW)
    return Fit(problem.law(best), problem.law(again), residuals)


def _starts(target: Array) -> Array:
    """[starts, 5]: what is left of the mean loss above E is shared by both terms."""
    lowest, mean = float(np.exp(target.min())), float(np.exp(target.mean()))
    rows = []
    for share in E_SHARES:
        rest = np.log((mean - share * lowest) / 2)
        rows += [[np.log(share * lowest), rest, rest, np.log(a), np.log(b)] for a in EXPONENTS for b in EXPONENTS]
    return np.array(rows)


@dataclass(frozen=True)
class _Problem:
    """The points' places. log_n and log_d: around their means, which keeps the terms apart from their exponents.

    A solution is the logarithms of E, of both terms at the mean place, and of both exponents: all stay positive.
    """

    log_n: Array
    log_d: Array
    centre: tuple[float, float]
    delta: float

    @classmethod
    def of(cls, parameters: Array, tokens: Array, delta: float) -> "_Problem":
        log_n, log_d = np.log(parameters), np.log(tokens)
        centre = float(log_n.mean()), float(log_d.mean())
        return cls(log_n - centre[0], log_d - centre[1], centre, delta)

    def law(self, solved: Array) -> Law:
        """Of solutions [..., 5]."""
        log_e, log_a, log_b = (solved[..., index] for index in range(3))
        a, b = np.exp(solved[..., 3]), np.exp(solved[..., 4])
        return Law(np.exp(log_e), np.exp(log_a + a * self.centre[0]), np.exp(log_b + b * self.centre[1]), a, b)

    def terms(self, solved: Array) -> Array:
        """Of solutions [batch, 5], the three terms of the loss [3, batch, points]."""
        a, b = np.exp(solved[:, 3:4]), np.exp(solved[:, 4:5])
        logs = (
            np.zeros_like(self.log_n) + solved[:, 0:1],
            solved[:, 1:2] - a * self.log_n,
            solved[:, 2:3] - b * self.log_d,
        )
        return np.exp(np.stack(logs))

    def log_loss(self, solved: Array) -> Array:
        return np.log(self.terms(solved).sum(0))

    def jacobian(self, solved: Array) -> Array:
        """Of log L by the solution: [batch, points, 5]."""
        terms = self.terms(solved)
        share = terms / terms.sum(0)
        of_a = -share[1] * self.log_n * np.exp(solved[:, 3:4])
        of_b = -share[2] * self.log_d * np.exp(solved[:, 4:5])
        return np.stack([*share, of_a, of_b], axis=-1)

    def cost(self, residuals: Array) -> Array:
        """Huber's loss, summed over points."""
        size = np.abs(residuals)
        return np.where(size <= self.delta, size**2 / 2, self.delta * (size - self.delta / 2)).sum(-1)

    def solve(self, solved: Array, target: Array, iterations: int) -> tuple[Array, Array]:
        """From starts [batch, 5] to targets [batch, points]: the nearest minima and their costs [batch]."""
        solved = solved.copy()
        costs, damping = self.cost(target - self.log_loss(solved)), np.full(len(solved), 1e-2)
        for _ in range(iterations):
            residuals, slopes = target - self.log_loss(solved), self.jacobian(solved)
            weights = np.minimum(1.0, self.delta / np.maximum(np.abs(residuals), 1e-300))
            weighted = slopes * weights[..., None]
            square = np.einsum("bpi,bpj->bij", weighted, slopes)
            downhill = np.einsum("bpi,bp->bi", weighted, residuals)
            diagonal = np.einsum("bii->bi", square)
            diagonal += damping[:, None] * (diagonal + 1e-9 * diagonal.max(-1, keepdims=True) + 1e-300)
            step = np.linalg.solve(square, downhill[..., None])[..., 0]
            tried = np.clip(solved + np.clip(step, -1.0, 1.0), LOWEST, HIGHEST)
            cost = self.cost(target - self.log_loss(tried))
            better = cost < costs
            solved, costs = np.where(better[:, None], tried, solved), np.where(better, cost, costs)
            damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        return solved, costs

    def redraw(self, best: Array, residuals: Array, draws: int, draw: np.random.Generator) -> Array:
        """Log losses [draws, points] of studies that might have been."""
        points, slopes = len(residuals), self.jacobian(best[None])[0]
        leverage = np.einsum("pi,ip->p", slopes, np.linalg.pinv(slopes))
        spread = residuals / (1 - np.minimum(leverage, LARGEST_LEVERAGE))
        spread -= spread.mean()
        free = points - len(NAMES)
        scale = np.sqrt(free / draw.chisquare(free, size=(draws, 1)))
        return self.log_loss(best[None]) + scale * spread[draw.integers(points, size=(draws, points))]
