"""A denoiser and two schedulers as random tables, and what they mean, enumerated: float64, a few tokens."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from armd_dist.objectives.order_diffusion import Terms, nelbo_terms, order_terms
from armd_dist.objectives.reverse_process import Read, Reading
from armd_dist.objectives.schedulers import Scheduler, learned_exponents, polynomial, uniform, windowed

C1, C2 = 0.7, 0.65  # the paper's best
LENGTH = 5
EXPONENTS = torch.tensor([[0.05, 0.4, 1.0, 1.35, 2.5]], dtype=torch.float64)
SCHEDULERS = {
    "uniform": uniform(1, LENGTH),
    "polynomial": polynomial(EXPONENTS),
    "autoregressive": windowed(1, LENGTH, 1),
    "blocks": windowed(1, LENGTH, 2),
    "blocks of learned order": Scheduler(EXPONENTS, torch.tensor([[0, 0, 1, 1, 2]]), 3),
}


class Tables(NamedTuple):
    """Every masked text and every text has rows of its own: nothing is shared, so nothing can cancel by structure.

    tokens: [masked texts, length, vocab] logits; order: [masked texts, length] g_psi; forward: [texts, length] g_phi.
    """

    tokens: Tensor
    order: Tensor
    forward: Tensor

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    @property
    def vocab(self) -> int:
        return self.tokens.shape[2]


def random_tables(length: int, vocab: int = 2, seed: int = 0, scale: float = 2.0) -> Tables:
    generator = torch.Generator().manual_seed(seed)
    masked, texts = (vocab + 1) ** length, vocab**length
    shapes = (masked, length, vocab), (masked, length), (texts, length)
    return Tables(*(scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def row_of(digits: Tensor, base: int) -> Tensor:
    return (digits * base ** torch.arange(digits.shape[1])).sum(1)


def reader(tables: Tables, reverse: Scheduler | None = None) -> Read:
    """reverse: a scheduler that reads nothing, for one text; None for that of the table."""

    def read(ids: Tensor, hidden: Tensor) -> Reading:
        row = row_of(torch.where(hidden, tables.vocab, ids), tables.vocab + 1)
        scheduler = polynomial(learned_exponents(tables.order[row], C1, C2)) if reverse is None else reverse
        return Reading(tables.tokens[row].log_softmax(-1), spread_over(scheduler, len(ids)))

    return read


def forward_scheduler(tables: Tables, text: Tensor) -> Scheduler:
    scores = tables.forward[row_of(text[None], tables.vocab)]
    return polynomial(learned_exponents(scores, C1, C2))


def spread_over(scheduler: Scheduler, batch: int) -> Scheduler:
    return Scheduler(scheduler.exponents.expand(batch, -1), scheduler.turn, scheduler.turns)


def all_texts(tables: Tables) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(tables.vocab)] * tables.length)


def all_maskings(length: int) -> Tensor:
    """[2^length, length]; masking m hides the places of the bits of m."""
    return (torch.arange(2**length)[:, None] >> torch.arange(length) & 1).bool()


def noise_for(order: tuple[int, ...], exponents: Tensor) -> Tensor:
    """Noise by which positions become known in this order: hidden from times that fall along it."""
    log_times = torch.empty(len(order), dtype=torch.float64)
    log_times[list(order)] = -torch.arange(1.0, len(order) + 1, dtype=torch.float64)
    return (exponents * log_times).exp()


def nll_of(reading: Reading, text: Tensor) -> Tensor:
    return -reading.log_probabilities.gather(-1, text.expand(len(reading.log_probabilities), -1)[..., None])[..., 0]


def of_states(scheduler: Scheduler, states: Tensor) -> Tensor:
    """`log_next` at every masking but the one that hides nothing, [2^length - 1, length]."""
    return spread_over(scheduler, len(states)).log_next(states)


def likelihood(read: Read, text: Tensor) -> float:
    """p(text) of the jump chain: the sum over all orders, those that come to the same state taken together."""
    states = all_maskings(len(text))[1:]
    reading = read(text.expand(len(states), -1), states)
    step = (reading.scheduler.log_next(states) - nll_of(reading, text)).exp().tolist()
    reached = [1.0]
    for masking, chances in enumerate(step, 1):
        places = [place for place in range(len(text)) if masking >> place & 1]
        reached.append(sum(chances[place] * reached[masking - (1 << place)] for place in places))
    return reached[-1]


def visits(forward: Scheduler, length: int) -> Tensor:
    """[2^length - 1] chance that an order drawn by the forward scheduler passes through each state."""
    states = all_maskings(length)[1:]
    step = of_states(forward, states).exp()
    found = [*torch.zeros(len(states), dtype=torch.float64), torch.ones((), dtype=torch.float64)]
    for masking in range(len(states), 0, -1):
        for place in range(length):
            if masking >> place & 1:
                fewer = masking - (1 << place)
                found[fewer] = found[fewer] + found[masking] * step[masking - 1, place]
    return torch.stack(found[1:])


def order_bound(read: Read, forward: Scheduler, text: Tensor) -> Tensor:
    """A scalar, as the next one: with its gradient."""
    states = all_maskings(len(text))[1:]
    reading = read(text.expand(len(states), -1), states)
    chances = of_states(forward, states), reading.scheduler.log_next(states)
    terms = order_terms(nll_of(reading, text), states, *chances).of_texts()
    return (visits(forward, len(text)) * terms.total).sum()


def nelbo_by_states(read: Read, forward: Scheduler, text: Tensor) -> Tensor:
    """For polynomial schedulers: as time is -log t, velocities are the exponents, and a state lasts 1 / their sum."""
    states = all_maskings(len(text))[1:]
    reading = read(text.expand(len(states), -1), states)
    rates = forward.exponents.expand(len(states), -1)
    terms = nelbo_terms(nll_of(reading, text), states, rates, reading.scheduler.exponents).of_texts()
    lasts = 1 / (rates * states).sum(1)
    return (visits(forward, len(text)) * lasts * terms.total).sum()


def terms_at(read: Read, forward: Scheduler, text: Tensor, t: float) -> tuple[Tensor, Terms]:
    """log q(z | text) and the NELBO's integrand of every masking z at one time."""
    hidden = all_maskings(len(text))
    time = torch.full((len(hidden),), t, dtype=torch.float64)
    reading, forward = read(text.expand(len(hidden), -1), hidden), spread_over(forward, len(hidden))
    velocities = forward.velocity(time), reading.scheduler.velocity(time)
    terms = nelbo_terms(nll_of(reading, text), hidden, *velocities).of_texts()
    return forward.log_probability(hidden, time), terms


def nelbo(read: Read, forward: Scheduler, text: Tensor) -> float:
    """The integral over t of the mean over all maskings."""
    total = 0.0
    for t, weight in smooth_times(forward.turns) if (forward.exponents == 1).all() else singular_times():
        log_chance, terms = terms_at(read, forward, text, t)
        total += weight * torch.where(log_chance > -math.inf, log_chance.exp() * terms.total, 0.0).sum().item()
    return total


def smooth_times(windows: int) -> list[tuple[float, float]]:
    """Gauss' quadrature in each window: exact where exponents are 1 and the integrand a polynomial."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    return [
        ((k + (node + 1) / 2) / windows, weight / 2 / windows)
        for k in range(windows)
        for node, weight in zip(nodes, weights, strict=True)
    ]


def singular_times() -> list[tuple[float, float]]:
    """Double exponential quadrature on (0, 1): times down to 1e-300, for integrands like t^(w - 1)."""
    found = []
    for y in np.arange(-6.0, 3.1, 1 / 16):
        t, rest = 1 / (1 + math.exp(-math.pi * math.sinh(y))), 1 / (1 + math.exp(math.pi * math.sinh(y)))
        found.append((t, math.pi * math.cosh(y) * t * rest / 16))
    return found
