"""Generation by an order that is drawn as it goes: the reverse process of OeMDM in k steps, and its exact jump chain.

Both are written for any function from a masked text to what a network reads out of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from armd_dist.model.shapes import Ids, Masked, Weights
from armd_dist.objectives.schedulers import Scheduler


class Reading(NamedTuple):
    """log_probabilities: [batch, rows, vocab] of the tokens of hidden positions; scheduler: the reverse one at z."""

    log_probabilities: Tensor
    scheduler: Scheduler


Read = Callable[[Ids, Masked], Reading]  # ids: [batch, rows], of which those of hidden positions are not to be read


def log_kernel(log_probabilities: Tensor, log_kept: Weights) -> Tensor:
    """[batch, rows, vocab + 1] log-chances of a hidden position from t to s: each token, and last, still hidden.

    log_kept: `Scheduler.log_kept`, that is (1 - alpha_s) / (1 - alpha_t).
    """
    reveals = (-torch.expm1(log_kept)).log()
    return torch.cat((log_probabilities + reveals[..., None], log_kept[..., None]), dim=-1)


@torch.no_grad()
def generate_in_steps(read: Read, ids: Ids, hidden: Masked, steps: int, generator: torch.Generator) -> Ids:
    """Fills hidden positions in `steps` equal steps from t = 1 to 0; those of one step do not see each other.

    What is known at the start is a prompt. Inexact by what happens within a step; the more steps, the less.
    """
    for step in range(steps, 0, -1):
        log_probabilities, scheduler = read(ids, hidden)
        t, s = (ids.new_full(ids.shape[:1], time / steps, dtype=torch.float64) for time in (step, step - 1))
        drawn = _draw(log_kernel(log_probabilities, scheduler.log_kept(t, s)), generator)
        revealed = hidden & (drawn < log_probabilities.shape[-1])
        ids, hidden = torch.where(revealed, drawn, ids), hidden & ~revealed
    return ids


@torch.no_grad()
def generate_in_jumps(read: Read, ids: Ids, hidden: Masked, generator: torch.Generator) -> Ids:
    """Fills hidden positions one at a time: the reverse process without an error, as time cancels (derived).

    Every text of the batch has as many hidden positions.
    """
    while hidden.any():
        log_probabilities, scheduler = read(ids, hidden)
        place = _draw(scheduler.log_next(hidden), generator)
        next_one = torch.nn.functional.one_hot(place, ids.shape[1]).bool()
        ids = torch.where(next_one, _draw(log_probabilities, generator), ids)
        hidden = hidden & ~next_one
    return ids


@torch.no_grad()
def generate_in_blocks(read: Read, ids: Ids, hidden: Masked, size: int, generator: torch.Generator) -> Ids:
    """Fills the `size` hidden positions that are likeliest to come next, all at once, until none is left.

    For schedulers of one window. Tokens of a block do not see each other, and no order is drawn: a heuristic.
    """
    while hidden.any():
        log_probabilities, scheduler = read(ids, hidden)
        rank = scheduler.exponents.masked_fill(~hidden, float("-inf")).argsort(1, descending=True).argsort(1)
        chosen = hidden & (rank < size)
        ids = torch.where(chosen, _draw(log_probabilities, generator), ids)
        hidden = hidden & ~chosen
    return ids


def _draw(log_chances: Tensor, generator: torch.Generator) -> Tensor:
    """An index of the last dimension for each of the others."""
    flat = log_chances.exp().flatten(0, -2)
    return torch.multinomial(flat, 1, generator=generator).view(log_chances.shape[:-1])
