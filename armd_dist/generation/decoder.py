"""Decoding block by block with a KV cache: one fused pass per block.

A pass runs the content rows of the block just placed together with the query rows of the next one. Two-stream layers
cache keys and values of the content rows, upper layers those of the query rows, which are final when computed because
they depend on earlier blocks alone. Known tokens, a prompt or text around holes, are revealed left to right before
everything else and read in the first pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from armd_dist.generation.cache import make_caches
from armd_dist.generation.passes import BEHIND, KNOWN, Columns, check_length, lay_columns
from armd_dist.generation.sampling import Sampling, draw_uniforms, sample
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout
from armd_dist.model.neighbours import Neighbours
from armd_dist.model.shapes import Ids
from armd_dist.model.visibility import ALL_CAUSAL, ALL_VISIBLE, Mask, Visibility, earlier, not_later


@dataclass(frozen=True)
class Generated:
    """What stands at each place [batch, places], BOS not included, and how it came there.

    placed: true where a token was generated; logprobs: of those tokens, nats, 0 elsewhere. ends: places of each text
    up to its end, the first end of text included. passes: forward passes that each text needed.
    """

    tokens: Tensor
    logprobs: Tensor
    placed: Tensor
    ends: list[int]
    passes: list[int]


def decode(
    model: ARMD,
    ids: Ids,
    turns: Ids,
    sampling: Sampling,
    bos_id: int,
    seeds: Sequence[int],
    eos_id: int | None = None,
) -> Generated:
    """Fills the holes of texts [batch, places], BOS not included; no text changes what another one becomes.

    turns: `KNOWN` where the token in `ids` is given, else the pass from 1 that fills the place, BEHIND where a text is
    shorter than the batch. seeds: one for each text. eos_id: a text is over when no place before its first such token
    behind its last known one is open; None: when no place is open. Raises ValueError where a text exceeds the model's
    length.
    """
    decoding = Decoding(model, ids, turns, sampling, bos_id, seeds, eos_id)
    while decoding.open:
        decoding.step()
    return decoding.result()


class Decoding:
    """A decode under way, for those who look on: `step` while `open`, then `result`. Arguments as of `decode`.

    text: [batch, 1 + places + 1], BOS first and a place for padding last.
    """

    def __init__(
        self,
        model: ARMD,
        ids: Ids,
        turns: Ids,
        sampling: Sampling,
        bos_id: int,
        seeds: Sequence[int],
        eos_id: int | None,
    ) -> None:
        for row in turns:
            check_length(int((row == KNOWN).sum()), int((row > KNOWN).sum()), model.config.max_sequence_length)
        device = next(model.parameters()).device
        self.model, self.sampling, self.eos_id = model, sampling, eos_id
        self.turns = turns.cpu()
        self.columns = lay_columns(self.turns).to(device)
        self.caches = make_caches(model.config, capacity=self.columns.slots.shape[1])
        self.text = F.pad(F.pad(ids.to(device), (1, 0), value=bos_id), (0, 1), value=bos_id)
        self.logprobs = torch.zeros(self.text.shape, dtype=torch.float64, device=device)
        self.uniforms = self._uniforms(seeds).to(device)
        self.seen = self._known_tokens() if sampling.repetition_penalty != 1 else None
        self.number = 0
        # Passes that each text needs, as far as known; an end of text makes them fewer.
        self.last_turn = self.turns.cummax(1).values
        self.ends = (self.turns != BEHIND).sum(1)
        self.passes = [-1] * len(ids)
        self._close()

    @property
    def open(self) -> bool:
        """Whether there is a text that is not over."""
        return -1 in self.passes

    @torch.no_grad()
    def step(self) -> None:
        """One forward pass, and the tokens of its block."""
        self.number += 1
        begin, end = self.columns.ends[self.number - 1 : self.number + 1]
        logits = self.model.layers.whole_logits(self.model(self._layout(), self.caches, asked=end - begin))
        # Without the vocabulary's padding: it would take part in how random numbers become tokens.
        logits = logits[..., : self.model.config.vocab_size]
        slots = self.columns.slots[:, begin:end]
        uniforms = self.uniforms.gather(1, slots).t()
        tokens, scores = sample(logits, self.sampling, uniforms, None if self.seen is None else self.seen[:, :-1])
        self.text.scatter_(1, slots, tokens.t())
        self.logprobs.scatter_(1, slots, scores.t().to(self.logprobs.dtype))
        if self.seen is not None:
            real = self.columns.places[:, begin:end] > 0
            self.seen.scatter_(1, torch.where(real, tokens.t(), self.model.config.vocab_size), True)
        self._close()

    def result(self) -> Generated:
        """What every text has become, on the CPU; nothing of passes that it did not need itself."""
        tokens, logprobs = (part[:, 1:-1].cpu() for part in (self.text, self.logprobs))
        placed = (self.turns > KNOWN) & (self.turns <= torch.tensor(self.passes)[:, None])
        open_places = (self.turns > KNOWN) & ~placed
        filler = 0 if self.eos_id is None else self.eos_id
        return Generated(
            tokens.masked_fill(open_places, filler),
            logprobs.masked_fill(~placed, 0.0),
            placed,
            self.ends.tolist(),
            self.passes,
        )

    def _close(self) -> None:
        """Notes the texts that this pass has completed."""
        if self.eos_id is not None and self.number:
            self.ends = self._first_ends()
        needed = self.last_turn.gather(1, (self.ends - 1).clamp(min=0)[:, None])[:, 0].tolist()
        self.passes = [
            self.number if passes < 0 and self.number >= need else passes
            for passes, need in zip(self.passes, needed, strict=True)
        ]

    def _first_ends(self) -> Tensor:
        """[batch] places up to the first end of text that was generated behind the last known token."""
        count = self.turns.shape[1]
        at = torch.arange(count)
        last_known = torch.where(self.turns == KNOWN, at, -1).amax(1, keepdim=True)
        placed = (self.turns > KNOWN) & (self.turns <= self.number)
        final = placed & (at > last_known) & (self.text[:, 1:-1].cpu() == self.eos_id)
        return torch.where(final.any(1), final.int().argmax(1) + 1, self.ends)

    def _uniforms(self, seeds: Sequence[int]) -> Tensor:
        """[batch, slots]: the n-th number of a row's seed for the n-th place that it fills, in text order."""
        holes = self.turns > KNOWN
        made = torch.zeros(self.text.shape, dtype=torch.float64)
        made[:, 1:-1][holes] = torch.cat(draw_uniforms(seeds, holes.sum(1).tolist()))
        return made

    def _known_tokens(self) -> Tensor:
        """[batch, vocabulary + 1], true for the tokens that a text begins with; the last column takes padding's."""
        vocab = self.model.config.vocab_size
        known = torch.where((self.turns == KNOWN).to(self.text.device), self.text[:, 1:-1], vocab)
        seen = torch.zeros(len(known), vocab + 1, dtype=torch.bool, device=known.device)
        return seen.scatter_(1, known, True)

    def _layout(self) -> Layout:
        c, (begin, end) = self.columns, self.columns.ends[self.number - 1 : self.number + 1]
        content = slice(0 if self.number == 1 else c.ends[self.number - 2], begin)
        query = slice(1 if self.number == 1 else begin, end)
        return Layout(
            content_ids=self.text.gather(1, c.slots[:, content]),
            content_positions=c.places[:, content],
            query_positions=c.places[:, query],
            neighbours=Neighbours(
                left_ids=self.text.gather(1, c.left[:, query]),
                left_distance=c.left_distance[:, query],
                right_ids=self.text.gather(1, c.right[:, query]),
                right_distance=c.right_distance[:, query],
            ),
            visibility=_visibility(c, self.number, content, query),
        )


def _visibility(columns: Columns, number: int, content: slice, query: slice) -> Visibility:
    """Who sees whom in this pass, among the rows of all passes so far."""
    if not columns.padded[number]:
        if number > 1:
            return ALL_VISIBLE
        if query.stop - content.stop == 1:
            return ALL_CAUSAL
    blocks = columns.blocks
    # Dense: to compile a kernel for each length of a prompt would take longer than the passes over it.
    return Visibility(
        content=Mask(dense=not_later(blocks[:, content], blocks[:, : content.stop])),
        query=Mask(dense=earlier(blocks[:, query], blocks[:, : content.stop])),
        upper=Mask(dense=not_later(blocks[:, query], blocks[:, 1 : query.stop])),
    )
