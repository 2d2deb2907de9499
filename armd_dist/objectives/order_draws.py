"""A masking of each text to take the NELBO at, by exponents of its own: at a random time, or in a random state.

At a time t a term weighs w / t. Its variance over a uniform t is infinite for exponents up to 1, MDLM's among them
(derived), and cutting t off would bias the bound. With time integrated out the same masked texts come as states of an
order drawn by the exponents, each of which lasts 1 / (sum of its w): the same bound from bounded weights. It is what
`masked_places` does for MDLM.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from armd_dist.model.shapes import Masked, Times, Weights
from armd_dist.objectives.schedulers import polynomial


class Drawn(NamedTuple):
    """hidden: [batch, rows]; clock: [batch], by which exponents become rates, forward and reverse ones alike, so that
    `nelbo_terms` of them is on average the NELBO; log_probability: [batch], of what was drawn, given share.
    """

    hidden: Masked
    clock: Times
    log_probability: Times


# The forward process' exponents [batch, rows]; share [batch] and noise [batch, rows], both uniform on [0, 1).
Draw = Callable[[Weights, Times, Weights], Drawn]


def at_time(exponents: Weights, share: Times, noise: Weights) -> Drawn:
    """The masking at t = share, positions independent (stated)."""
    forward = polynomial(exponents)
    hidden = forward.hide(share, noise)
    clock = torch.where(share > 0, share, 1.0).reciprocal()  # at 0 nothing is hidden
    return Drawn(hidden, clock, forward.log_probability(hidden, share))


def at_state(exponents: Weights, share: Times, noise: Weights) -> Drawn:
    """A state in which 1 + floor(share x rows) positions are hidden, all numbers alike likely (our choice).

    Position i is hidden from the time noise^(1 / w) on, as `Scheduler.hide` has it, so the order in which positions
    become known is Plackett-Luce's of the exponents. log_probability: of the known ones in their sequence.
    """
    rows = noise.shape[1]
    count = 1 + (share * rows).long()
    order = (noise.log() / exponents).argsort(dim=1, descending=True)  # the first to become known first
    hidden_in_order = torch.arange(rows, device=noise.device) >= rows - count[:, None]
    hidden = torch.zeros_like(hidden_in_order).scatter(1, order, hidden_in_order)
    logs = exponents.log().gather(1, order)
    chances = logs - logs.flip(1).logcumsumexp(1).flip(1)
    lasts = torch.where(hidden, exponents, 0.0).sum(1).reciprocal()
    return Drawn(hidden, rows * lasts, torch.where(hidden_in_order, 0.0, chances).sum(1))
