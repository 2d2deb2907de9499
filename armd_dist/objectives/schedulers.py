"""When each position is hidden: the schedulers of OeMDM (Hong, Lee and Ye, arXiv 2602.02112), all of them one family.

At time t a position is known with chance alpha(t), and hidden with 1 - alpha(t) = u^w. u is the time within the
position's window, its exponent w says how late in its window it is hidden: a small one is hidden early, and so
generated late. One window and w = 1 is masked diffusion (MDLM), one window for each position AR, one for L' of them
block diffusion (BD3-LM); LoMDM learns w from the text. That one class gives them all is our choice.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from armd_dist.model.shapes import Ids, Masked, Times, Weights


@dataclass(frozen=True)
class Scheduler:
    """alpha of every position, its velocity A = -d alpha/dt / (1 - alpha), and the masked texts it draws.

    exponents: [batch, rows], w > 0; turn: [batch or 1, rows], the position's window among `turns` of equal length, 0
    the one generated first: times 1 - 1/turns to 1. Times are float64 [batch] in [0, 1]; so are all results.
    Everything is computed from log u: nothing is cut off near t = 0, where velocities grow as w / t, or near t = 1.
    """

    exponents: Weights
    turn: Ids
    turns: int = 1

    def log_hidden(self, t: Times) -> Weights:
        """log (1 - alpha): 0 from the end of the window on, -inf before its beginning."""
        u = self._within(t)
        return torch.where(u > 0, self.exponents * _log_inside(u), float("-inf"))

    def log_known(self, t: Times) -> Weights:
        """log alpha."""
        before_end = self._within(t) < 1
        log_hidden = torch.where(before_end, self.log_hidden(t), -1.0)  # at 0 the gradient would be NaN, though unused
        return torch.where(before_end, (-torch.expm1(log_hidden)).log(), float("-inf"))

    def velocity(self, t: Times) -> Weights:
        """The rate at which hidden positions become known as t falls: w / t in one window, 0 outside of the window."""
        u = self._within(t)
        return torch.where(_inside(u), self.exponents * self.turns / torch.where(_inside(u), u, 1.0), 0.0)

    def hide(self, t: Times, noise: Weights) -> Masked:
        """Draws which positions are hidden. noise: [batch, rows] uniform on [0, 1)."""
        return noise.log() < self.log_hidden(t)

    def log_probability(self, hidden: Masked, t: Times) -> Times:
        """log q(z | text) of this masking: positions are independent. -inf for one that the windows exclude."""
        return torch.where(hidden, self.log_hidden(t), self.log_known(t)).sum(1)

    def log_kept(self, t: Times, s: Times) -> Weights:
        """log of the chance that a position hidden at t is still hidden at s <= t: (1 - alpha_s) / (1 - alpha_t).

        -inf where s is not within the window any more, also for a position that should have been known at t already.
        """
        later, earlier = self._within(t), self._within(s)
        return torch.where(earlier > 0, self.exponents * (_log_inside(earlier) - _log_inside(later)), float("-inf"))

    def log_next(self, hidden: Masked) -> Weights:
        """log of the chance that a position is the next to become known: w / sum of w over the hidden ones (derived).

        Time cancels: all hidden positions of one window have velocities w turns / u with the same u. With windows the
        sum is over the first that has hidden positions. -inf for all others; every text needs a hidden position.
        """
        turn = self.turn.expand_as(hidden)
        first = torch.where(hidden, turn, self.turns).amin(1, keepdim=True)
        return self.exponents.log().masked_fill(~hidden | (turn != first), float("-inf")).log_softmax(1)

    def _within(self, t: Times) -> Weights:
        """u: the time within each position's window, from 0 to 1; below or above before or after it."""
        return t[:, None] * self.turns - (self.turns - 1 - self.turn)


def polynomial(exponents: Weights) -> Scheduler:
    """alpha = 1 - t^w; with exponents of `learned_exponents` that of LoMDM."""
    return Scheduler(exponents, torch.zeros(1, exponents.shape[1], dtype=torch.long, device=exponents.device))


def uniform(batch: int, rows: int) -> Scheduler:
    """alpha = 1 - t: the log-linear schedule of MDLM."""
    return polynomial(torch.ones(batch, rows, dtype=torch.float64))


def windowed(batch: int, rows: int, window: int) -> Scheduler:
    """Windows of `window` positions left to right, the last may be short: BD3-LM, and AR where it is 1."""
    turn = torch.arange(rows)[None] // window
    return Scheduler(torch.ones(batch, rows, dtype=torch.float64), turn, turns=int(turn[0, -1]) + 1)


def learned_exponents(scores: Weights, centre: float, spread: float) -> Weights:
    """w = c1 + c2 (sigmoid(score) - its mean over the text), c1 = `centre`, c2 = `spread` (LoMDM; its best: 0.7, 0.65).

    In float64. They sum to c1 times the rows, and are positive because c1 > c2. Raises ValueError where that is not so.
    """
    if not 0 <= spread < centre:
        raise ValueError(f"c1={centre}, c2={spread}: exponents may be zero or negative; use 0 <= c2 < c1")
    squashed = scores.double().sigmoid()
    return centre + spread * (squashed - squashed.mean(1, keepdim=True))


def _inside(u: Tensor) -> Tensor:
    return (u > 0) & (u < 1)


def _log_inside(u: Tensor) -> Tensor:
    """log u inside the window, and 0 outside."""
    return torch.where(_inside(u), u, 1.0).log()
