"""The bound of masked diffusion under any order, and its gradient where the order is learned (arXiv 2602.02112).

The NELBO is the integral over t of E_z of `nelbo_terms`, z drawn by the forward scheduler, which may read the text;
the reverse one reads z alone, and generates. Both bounds are upper bounds of -log p(text), in nats per text.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from armd_dist.model.shapes import Masked, Times, Weights


class Terms(NamedTuple):
    """Of each text, [batch], or of each of its positions, [batch, rows]: the nats of naming tokens, and those of not
    knowing the order that the text asks for."""

    cross_entropy: Tensor
    order: Tensor

    @property
    def total(self) -> Tensor:
        return self.cross_entropy + self.order

    def of_texts(self) -> "Terms":
        """Of each text, from those of its positions."""
        return Terms(self.cross_entropy.sum(1), self.order.sum(1))


def nelbo_terms(nll: Weights, hidden: Masked, forward: Weights, reverse: Weights) -> Terms:
    """The integrand at one time: of each hidden position A nll, and A log(A / A') - (A - A').

    nll: [batch, rows], -log p(token | z); forward, reverse: the velocities A and A' at this time. Infinite where the
    forward process moves and the reverse one cannot.
    """
    divergence = torch.xlogy(forward, forward) - torch.xlogy(forward, reverse) - (forward - reverse)
    return Terms(torch.where(hidden, forward * nll, 0.0), torch.where(hidden, divergence, 0.0))


def order_terms(nll: Weights, hidden: Masked, forward: Weights, reverse: Weights) -> Terms:
    """One step of the order-form bound, of each position; the bound is their sum over the states z of an order drawn by
    the forward scheduler.

    forward, reverse: `Scheduler.log_next` of both at z. What the NELBO has on top is how long the reverse process
    stays in z, which no sampler of the jump chain needs: so this bound is never looser (derived).
    """
    chance = forward.exp()
    possible = hidden & (chance > 0)
    difference = torch.where(possible, forward, 0.0) - torch.where(possible, reverse, 0.0)
    return Terms(torch.where(possible, chance * nll, 0.0), torch.where(possible, chance * difference, 0.0))


def leave_one_out(losses: tuple[Times, Times], log_probabilities: tuple[Times, Times]) -> Times:
    """[batch] what to minimise so that its gradient is, on average, that of E_z loss(z), also through the draw of z.

    Two independent maskings of each text at one time, their losses and their log q(z | text): the mean of the losses
    plus 1/2 (log q_1 - log q_2) (L_1 - L_2), the last factor held fixed (two-sample RLOO, as LoMDM has it). Only its
    gradient means anything; what to report is the mean of the losses.
    """
    (first, second), (log_first, log_second) = losses, log_probabilities
    return (first + second) / 2 + (log_first - log_second) / 2 * (first - second).detach()
