"""Decoding in an order that the network chooses from what is written so far: the generator of LoMDM.

Every row sees every other, so each pass reads the whole text again and nothing can be cached.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from armd_dist.generation.decoder import Generated
from armd_dist.generation.passes import BEHIND, KNOWN, check_length
from armd_dist.generation.sampling import Sampling, sample
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.shapes import Ids, Masked, Weights
from armd_dist.objectives.learned_order import exponents, lay_out_known
from armd_dist.objectives.schedulers import Scheduler, polynomial

OPEN = 1 << 40  # the turn of a place that nothing has filled yet


@dataclass(frozen=True)
class Pace:
    """How many places a pass fills. steps: the reverse process in so many equal steps of time; at_once: those places
    whose exponents are highest; neither: one, drawn by its exponent, which is the reverse process without an error."""

    steps: int | None = None
    at_once: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.at_once is not None:
            raise ValueError(f"steps={self.steps}: says how many places a pass fills, as --block-size does; give one")

    def choose(self, scheduler: Scheduler, hidden: Masked, uniforms: Weights, number: int) -> Masked:
        """[batch, rows] the places that pass `number` (from 1) fills. uniforms: one for each place."""
        if self.steps is not None:
            t, s = (_time(left / self.steps, hidden) for left in (self.steps - number + 1, self.steps - number))
            return hidden & (uniforms >= scheduler.log_kept(t, s).exp())
        ranks = scheduler.log_next(hidden)
        if self.at_once is None:  # the largest of the logs with Gumbel noise falls on each by its own chance
            ranks = ranks - (-uniforms.clamp(min=torch.finfo(uniforms.dtype).tiny).log()).log()
        count = min(self.at_once or 1, hidden.shape[1])
        taken = ranks.topk(count, dim=1).indices
        return hidden & torch.zeros_like(hidden).scatter(1, taken, True)


class LearnedDecoding:
    """A decode under way, for those who look on: `step` while `open`, then `result`; as `Decoding` has them.

    ids, turns: [batch, places] as `make_batch` gives them; which turn a hole has there does not matter. turns then say
    what was filled when. eos_id: a text is over when no place before its first such token behind its last known one is
    open; None: when no place is. Raises ValueError where a text exceeds the model's length.
    """

    def __init__(
        self,
        model: LearnedOrderDenoiser,
        ids: Ids,
        turns: Ids,
        sampling: Sampling,
        bos_id: int,
        seeds: Sequence[int],
        eos_id: int | None,
        pace: Pace,
    ) -> None:
        for row in turns:
            check_length(int((row == KNOWN).sum()), int((row > KNOWN).sum()), model.config.max_sequence_length)
        self.model, self.sampling, self.pace = model, sampling, pace
        self.bos_id, self.eos_id = bos_id, eos_id
        self.device = next(model.parameters()).device
        self.turns = torch.where(turns > KNOWN, OPEN, turns.cpu())
        self.text = F.pad(F.pad(ids.cpu(), (1, 0), value=bos_id), (0, 1), value=bos_id)
        self.logprobs = torch.zeros(ids.shape, dtype=torch.float64)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.number = 0
        self.ends = _Ends(turns)

    @property
    def open(self) -> bool:
        """Whether there is a text that is not over."""
        return bool(self._unfinished().any())

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass for each length of text, and the tokens of the places that it chose."""
        self.number += 1
        lengths, unfinished = (self.turns != BEHIND).sum(1), self._unfinished()
        for length in sorted(set(lengths[unfinished].tolist())):
            self._fill(torch.nonzero(unfinished & (lengths == length))[:, 0], length)
        self.ends.look(self.text[:, 1:-1], self.turns, self.eos_id)
        over = ~self._unfinished()
        self.ends.needed[over & (self.ends.needed == 0)] = self.number

    def result(self) -> Generated:
        """What every text has become, on the CPU."""
        placed = (self.turns > KNOWN) & (self.turns < OPEN)
        filler = 0 if self.eos_id is None else self.eos_id
        tokens = self.text[:, 1:-1].masked_fill(self.turns == OPEN, filler)
        return Generated(tokens, self.logprobs, placed, self.ends.places.tolist(), self.ends.needed.tolist())

    def _unfinished(self) -> Tensor:
        """[batch] whether a place before the text's end is open."""
        at = torch.arange(self.turns.shape[1])
        return ((self.turns == OPEN) & (at < self.ends.places[:, None])).any(1)

    def _fill(self, rows: Tensor, length: int) -> None:
        """A pass over texts of one length, so that none sees padding."""
        ids, hidden = self.text[rows, 1 : length + 1], self.turns[rows, :length] == OPEN
        noise = torch.stack([torch.rand(2, length, generator=self.generators[row]) for row in rows]).double()
        given = replace(lay_out_known(ids, self.bos_id), masked=hidden).to(self.device)
        logits, scores = self.model.read(given)
        logits = self.model.layers.whole_logits(logits)[..., : self.model.config.vocab_size].cpu()
        scheduler = polynomial(exponents(scores, self.model.config).cpu())
        chosen = self.pace.choose(scheduler, hidden, noise[:, 0], self.number)
        tokens, scores = sample(logits, self.sampling, noise[:, 1].t(), self._seen(ids, hidden))
        where = (rows[:, None].expand_as(chosen)[chosen], torch.nonzero(chosen)[:, 1])
        self.text[where[0], where[1] + 1] = tokens.t()[chosen]
        self.logprobs[where] = scores.t()[chosen].double()
        self.turns[where] = self.number

    def _seen(self, ids: Ids, hidden: Masked) -> Tensor | None:
        """[batch, vocabulary], true for tokens that stand in the text."""
        if self.sampling.repetition_penalty == 1:
            return None
        vocab = self.model.config.vocab_size
        seen = torch.zeros(len(ids), vocab + 1, dtype=torch.bool)
        return seen.scatter_(1, torch.where(hidden, vocab, ids), True)[:, :vocab]


class _Ends:
    """places: [batch] of each text up to its end, that one included; needed: passes until it was over, 0 before."""

    def __init__(self, turns: Ids) -> None:
        at = torch.arange(turns.shape[1])
        last_known = torch.where(turns == KNOWN, at, -1).amax(1, keepdim=True)
        self.may_end = (turns > KNOWN) & (at > last_known)
        self.places = (turns != BEHIND).sum(1)
        self.needed = torch.zeros(len(turns), dtype=torch.long)

    def look(self, tokens: Ids, turns: Ids, eos_id: int | None) -> None:
        if eos_id is None:
            return
        final = self.may_end & (turns < OPEN) & (tokens == eos_id)
        self.places = torch.where(final.any(1), final.int().argmax(1) + 1, self.places)


def _time(value: float, hidden: Masked) -> Tensor:
    return torch.full((len(hidden),), value, dtype=torch.float64)
