"""LoMDM's training objective and its generator, from the network and the two learned schedulers (arXiv 2602.02112)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import DenoiserLayout, lay_out_masked
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.network import Network
from armd_dist.model.shapes import Ids, Masked, Times, Weights
from armd_dist.objectives.likelihood import Loss, MicroBatch
from armd_dist.objectives.order_diffusion import Terms, leave_one_out, nelbo_terms
from armd_dist.objectives.order_draws import Draw, at_state
from armd_dist.objectives.reverse_process import Read, Reading
from armd_dist.objectives.schedulers import learned_exponents, polynomial
from armd_dist.orders.masking import masking_noise, masking_times


class OrderLoss(NamedTuple):
    """Of each text, [batch]. objective: for its gradient only; terms: nats that are on average the NELBO, to report.

    variance: of the terms' sum over maskings, by the two that were drawn: what RLOO multiplies its gradient with;
    forward_spread, reverse_spread: standard deviation of the exponents over positions, 0 where no order is learned.
    """

    objective: Times
    terms: Terms
    variance: Times
    forward_spread: Times
    reverse_spread: Times


@dataclass(frozen=True)
class OrderBatch(MicroBatch):
    """Texts to take LoMDM's loss of. layout: with nothing hidden; share, noise: as of `learned_order_loss`."""

    share: Times = field(kw_only=True)
    noise: tuple[Weights, Weights] = field(kw_only=True)

    def to(self, device: object) -> "OrderBatch":
        targets, share, *noise = (each.to(device) for each in (self.targets, self.share, *self.noise))  # type: ignore[call-overload]
        moved = {"layout": self.layout.to(device), "targets": targets, "share": share, "noise": tuple(noise)}
        return replace(self, **moved)

    def loss(self, model: Network, z_loss: float = 0.0) -> Loss:
        """The mean over all tokens, and how the order fares: nats per token, but for spreads of exponents."""
        assert isinstance(model, LearnedOrderDenoiser), "the run's model.learned_order"
        assert isinstance(self.layout, DenoiserLayout), "of `learned_order_batch`"
        found, rows = learned_order_loss(model, self.layout, self.share, self.noise, z_loss), self.targets.shape[1]
        figures = {
            "token_nats": found.terms.cross_entropy / rows,
            "order_nats": found.terms.order / rows,
            "masking_variance": found.variance / rows**2,
            "forward_spread": found.forward_spread,
            "reverse_spread": found.reverse_spread,
        }
        nll = (found.terms.total / rows).mean().detach()
        means = {name: value.mean().detach() for name, value in figures.items()}
        return Loss((found.objective / rows).mean(), nll, means)


def learned_order_batch(ids: Ids, seed: int, samples: Sequence[int], bos_id: int) -> OrderBatch:
    """Texts [batch, rows]; their maskings are drawn from (seed, global sample number) and nothing else."""
    noise = (torch.from_numpy(masking_noise(ids.shape[1], seed, samples, draw)) for draw in (0, 1))
    share = torch.from_numpy(masking_times(seed, samples))
    return OrderBatch(lay_out_known(ids, bos_id), ids, first_sample=samples[0], share=share, noise=(*noise,))  # type: ignore[arg-type]


def learned_order_loss(
    model: LearnedOrderDenoiser,
    text: DenoiserLayout,
    share: Times,
    noise: tuple[Weights, Weights],
    z_loss: float = 0.0,
    draw: Draw = at_state,
) -> OrderLoss:
    """The estimate of the NELBO and of its gradient for the denoiser, g_psi and g_phi, from two maskings of each text.

    text: whole texts with nothing hidden; share: as of `masking_times`; noise: as of `masking_noise`, of two draws.
    z_loss: as of `MicroBatch.loss_of`, in the objective. draw: `at_time` is the paper's. Three passes of the backbone
    (stated), of which the two of masked texts run as one; they wait for the first, g_phi's, which says what is masked.
    """
    batch = len(text.ids)
    forward = exponents(model.order_of_text(text), model.config)
    first, second = (draw(forward, share, each) for each in noise)
    twice = hide_twice(text, torch.cat((first.hidden, second.hidden)))
    logits, scores = model.read(twice)
    reverse, clock = exponents(scores, model.config), torch.cat((first.clock, second.clock))[:, None]
    rates = forward.repeat(2, 1) * clock, reverse * clock
    penalty = torch.zeros((), dtype=clock.dtype, device=clock.device)
    if z_loss:  # before the nats, which may overwrite the logits
        weights = torch.where(twice.masked, rates[0].detach(), 0.0)
        penalty = z_loss * (weights * model.layers.log_normalizer(logits).square().t()).sum(1).view(2, batch).mean(0)
    terms = nelbo_terms(model.layers.token_nll(logits, twice.ids).t(), twice.masked, *rates)
    losses = terms.total[:batch], terms.total[batch:]
    return OrderLoss(
        objective=leave_one_out(losses, (first.log_probability, second.log_probability)) + penalty,
        terms=Terms(*(part.view(2, batch).mean(0) for part in terms)),
        variance=(losses[0] - losses[1]).square() / 2,
        forward_spread=forward.std(1, correction=0),
        reverse_spread=reverse.std(1, correction=0).view(2, batch).mean(0),
    )


def exponents(scores: Weights, config: ModelConfig) -> Weights:
    """[batch, rows]"""
    return learned_exponents(scores, config.order_centre, config.order_spread)


def reader(model: LearnedOrderDenoiser, bos_id: int) -> Read:
    """The model as `generate_in_steps` and `generate_in_jumps` ask for it; g_psi gives the order."""

    def read(ids: Ids, hidden: Masked) -> Reading:
        logits, scores = model.read(replace(lay_out_known(ids, bos_id), masked=hidden))
        log_probabilities = logits.transpose(0, 1)[..., : model.config.vocab_size].log_softmax(-1)
        return Reading(log_probabilities, polynomial(exponents(scores, model.config)))

    return read


def lay_out_known(ids: Ids, bos_id: int) -> DenoiserLayout:
    """Whole texts [batch, rows], nothing of them hidden."""
    return lay_out_masked(ids, torch.zeros_like(ids, dtype=torch.bool), ids.shape[1], bos_id)


def hide_twice(text: DenoiserLayout, hidden: Masked) -> DenoiserLayout:
    """Each text two times, all of them once before they come again. hidden: [2 x batch, rows]."""
    rows: dict[str, Tensor] = {
        name: getattr(text, name).repeat(2, 1) for name in ("clean_ids", "clean_positions", "ids", "positions")
    }
    return replace(text, masked=hidden, **rows)
