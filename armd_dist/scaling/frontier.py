"""What a law says of compute: the best split of a budget, the loss there, and how much of it AR would need.

A run of D tokens costs C = k N^p D FLOPs. k and p are fitted to the sizes of the study themselves, for attention, the
head and the second stream do not grow as parameters do; the textbook's C = 6 N D is k = 6, p = 1.
"""

from dataclasses import dataclass

import numpy as np

from armd_dist.scaling.law import Array, Law, interval_of

BISECTIONS = 60
# How far, in powers of ten, AR's compute is sought to both sides.
REACH = 12.0
FEWEST_SIZES = 3


@dataclass(frozen=True)
class Cost:
    """FLOPs of a token: factor x N^power. error: the most that a size of the study lies off it, as a share."""

    factor: float
    power: float
    error: float

    @classmethod
    def of(cls, parameters: Array, flops_per_token: Array) -> "Cost":
        """From at least two sizes."""
        power, log_factor = np.polyfit(np.log(parameters), np.log(flops_per_token), 1)
        off = np.exp(log_factor) * parameters**power / flops_per_token - 1
        return cls(float(np.exp(log_factor)), float(power), float(np.abs(off).max()))


@dataclass(frozen=True)
class Best:
    """The compute-optimal run of a budget, under one law or each of many."""

    parameters: Array
    tokens: Array
    loss: Array


def best_of(law: Law, cost: Cost, flops: Array | float) -> Best:
    """The minimum of L(N, C / (k N^p)) over N, in closed form: a A N^-a = p b B D^-b there."""
    budget = np.asarray(flops) / cost.factor
    ratio = law.a * law.A / (cost.power * law.b * law.B)
    log_n = (np.log(ratio) + law.b * np.log(budget)) / (law.a + cost.power * law.b)
    # Where few points leave an exponent open, some of its draws put the minimum at no size, or at one without end.
    with np.errstate(over="ignore", divide="ignore"):
        parameters = np.exp(log_n)
        tokens = np.exp(np.log(budget) - cost.power * log_n)
        return Best(parameters, tokens, law.loss(parameters, tokens))


def growth(law: Law, cost: Cost) -> Array:
    """The power of compute with which the best N grows; that of D is 1 less `cost.power` times this."""
    return law.b / (law.a + cost.power * law.b)


def compute_ratio(law: Law, cost: Cost, reference: Law, reference_cost: Cost, flops: float) -> Array:
    """Compute that the reference needs for the loss that this law reaches with `flops`, over `flops`.

    Both at their best splits. Below 1 the reference is the cheaper one; infinite where it never comes so low, 0 where
    that is above the losses of any compute.
    """
    wanted = best_of(law, cost, flops).loss
    low = np.full(np.shape(wanted), np.log(flops) - REACH * np.log(10))
    high = np.full(np.shape(wanted), np.log(flops) + REACH * np.log(10))
    unreachable = best_of(reference, reference_cost, np.exp(high)).loss > wanted
    for_nothing = best_of(reference, reference_cost, np.exp(low)).loss <= wanted
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_little = best_of(reference, reference_cost, np.exp(middle)).loss > wanted
        low, high = np.where(too_little, middle, low), np.where(too_little, high, middle)
    ratio = np.where(unreachable, np.inf, np.exp((low + high) / 2) / flops)
    return np.where(for_nothing, 0.0, ratio)


@dataclass(frozen=True)
class Parabola:
    """One isoFLOP slice: loss = c0 + c1 x + c2 x^2 with x = log N. parameters: where it is lowest; None where the curve
    has no bottom. inside: whether that lies among the slice's sizes; low, high: its 95 % interval."""

    flops: float
    coefficients: tuple[float, float, float]
    parameters: float | None
    low: float | None
    high: float | None
    inside: bool


def parabola(flops: float, parameters: Array, losses: Array, draws: int, seed: int = 0) -> Parabola | None:
    """None of fewer than three sizes. The interval wants more points than three: residuals are drawn anew."""
    x = np.log(parameters)
    if len(np.unique(x)) < FEWEST_SIZES:
        return None
    centre = float(x.mean())
    slopes = np.stack([np.ones_like(x), x - centre, (x - centre) ** 2], axis=1)
    solve = np.linalg.pinv(slopes)
    found = solve @ losses
    free, bounds = len(x) - 3, (None, None)
    bottom = _bottom(found, centre)
    if free > 0 and bottom is not None:
        draw = np.random.default_rng(seed)
        sigma = np.sqrt(((losses - slopes @ found) ** 2).sum() / draw.chisquare(free, draws))
        noise = sigma[:, None] * draw.standard_normal((draws, len(x)))
        curves = (losses - (losses - slopes @ found) + noise) @ solve.T
        # A curve that opens downwards has no bottom: it may lie anywhere.
        bottoms = np.where(
            curves[:, 2] > 0, centre - curves[:, 1] / (2 * curves[:, 2]), np.inf * np.sign(-curves[:, 1])
        )
        bounds = interval_of(np.exp(bottoms))
    inside = bottom is not None and float(parameters.min()) <= bottom <= float(parameters.max())
    c0, c1, c2 = found
    plain = (float(c0 - c1 * centre + c2 * centre**2), float(c1 - 2 * c2 * centre), float(c2))
    return Parabola(flops, plain, bottom, bounds[0], bounds[1], inside)


def _bottom(found: Array, centre: float) -> float | None:
    return float(np.exp(centre - found[1] / (2 * found[2]))) if found[2] > 0 else None
