"""LoMDM's training objective and its generator, from the network and the two learned schedulers (arXiv 2602.02112)."""

from typing import NamedTuple

import torch

from armd_dist.model.denoiser import DenoiserLayout, lay_out_masked
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.shapes import Ids, Masked, Times, Weights
from armd_dist.objectives.order_diffusion import Terms, leave_one_out, nelbo_terms
from armd_dist.objectives.order_draws import Draw, at_state
from armd_dist.objectives.reverse_process import Read, Reading
from armd_dist.objectives.schedulers import learned_exponents, polynomial


class Exponents(NamedTuple):
    """c1 and c2 of `learned_exponents`; the defaults are the paper's best. (1, 0) is MDLM."""

    centre: float = 0.7
    spread: float = 0.65

    def of(self, scores: Weights) -> Weights:
        """[batch, rows]"""
        return learned_exponents(scores, self.centre, self.spread)


class OrderLoss(NamedTuple):
    """Of each text, [batch]. objective: for its gradient only; terms: nats that are on average the NELBO, to report."""

    objective: Times
    terms: Terms


def learned_order_loss(
    model: LearnedOrderDenoiser,
    ids: Ids,
    share: Times,
    noise: tuple[Weights, Weights],
    bos_id: int,
    exponents: Exponents,
    draw: Draw = at_state,
) -> OrderLoss:
    """The estimate of the NELBO and of its gradient for the denoiser, g_psi and g_phi, from two maskings of each text.

    ids: whole texts [batch, rows]; share: as of `masking_times`; noise: as of `masking_noise`, of two draws. draw:
    `at_time` is the paper's. Three passes of the backbone (stated), of which the two of masked texts run as one; they
    wait for the first, g_phi's, since it says what is masked.
    """
    batch = len(ids)
    forward = exponents.of(model.order_of_text(_lay_out(ids, torch.zeros_like(ids, dtype=torch.bool), bos_id)))
    first, second = (draw(forward, share, each) for each in noise)
    twice, hidden = ids.repeat(2, 1), torch.cat((first.hidden, second.hidden))
    logits, scores = model.read(_lay_out(twice, hidden, bos_id))
    nll = model.layers.token_nll(logits, twice).t()
    clock = torch.cat((first.clock, second.clock))[:, None]
    rates = forward.repeat(2, 1) * clock, exponents.of(scores) * clock
    terms = nelbo_terms(nll, hidden, *rates)
    losses = terms.total[:batch], terms.total[batch:]
    objective = leave_one_out(losses, (first.log_probability, second.log_probability))
    return OrderLoss(objective, Terms(*((part[:batch] + part[batch:]) / 2 for part in terms)))


def reader(model: LearnedOrderDenoiser, bos_id: int, exponents: Exponents) -> Read:
    """The model as `generate_in_steps` and `generate_in_jumps` ask for it; g_psi gives the order."""

    def read(ids: Ids, hidden: Masked) -> Reading:
        logits, scores = model.read(_lay_out(ids, hidden, bos_id))
        log_probabilities = logits.transpose(0, 1)[..., : model.config.vocab_size].log_softmax(-1)
        return Reading(log_probabilities, polynomial(exponents.of(scores)))

    return read


def _lay_out(ids: Ids, hidden: Masked, bos_id: int) -> DenoiserLayout:
    return lay_out_masked(ids, hidden, ids.shape[1], bos_id)
