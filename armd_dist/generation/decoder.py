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

from armd_dist.generation.cache import make_caches, of_query
from armd_dist.generation.ends import Ends
from armd_dist.generation.graph import Steady, can_capture
from armd_dist.generation.passes import KNOWN, Columned, check_length, lay_columns
from armd_dist.generation.sampling import Sampling, draw_uniforms, sample
from armd_dist.model.armd import ARMD
from armd_dist.model.attention import KeyValueCache
from armd_dist.model.layout import Layout
from armd_dist.model.neighbours import Neighbours
from armd_dist.model.shapes import Ids
from armd_dist.model.visibility import Visibility


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

    text: [batch, 1 + places + 1], BOS first and a place for padding last. number: passes so far. ends: what is known of
    where texts end.
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
        self.ends = Ends(self.turns, eos_id)
        self.steady = Steady(self.columns, self.caches, of_query(model.config)) if can_capture(model) else None

    @property
    def open(self) -> bool:
        """Whether there is a text that is not over."""
        return any(needed > self.number for needed in self.ends.needed)

    @property
    def places(self) -> list[int]:
        """Of each text up to its end, as far as that is known."""
        return self.ends.places.tolist()

    @torch.inference_mode()
    def step(self) -> None:
        """One forward pass, and the tokens of its block."""
        self.number += 1
        if self.steady is None or not self.steady.step(self.number, self.place):
            content, query = self.columns.rows_of(self.number)
            begin, end = self.columns.ends[self.number - 1 : self.number + 1]
            visibility = self.columns.visibility_of(self.number)
            self.place(content, query, slice(begin, end), visibility, self.caches)
        self.ends.note(self.placed, self.text, self.number)

    def place(
        self,
        content: Columned,
        query: Columned,
        asked: Columned,
        visibility: Visibility,
        caches: Sequence[KeyValueCache],
    ) -> None:
        """A forward pass over these columns of the texts, and tokens for those of them that are asked for."""
        slots = self.columns.slots[:, asked]
        logits = self.model(self._layout(content, query, visibility), caches, asked=slots.shape[1])
        # Without the vocabulary's padding: it would take part in how random numbers become tokens.
        logits = self.model.layers.whole_logits(logits)[..., : self.model.config.vocab_size]
        uniforms = self.uniforms.gather(1, slots).t()
        tokens, scores = sample(logits, self.sampling, uniforms, None if self.seen is None else self.seen[:, :-1])
        self.placed = tokens.t()
        self.text.scatter_(1, slots, self.placed)
        self.logprobs.scatter_(1, slots, scores.t().to(self.logprobs.dtype))
        if self.seen is not None:
            real = self.columns.places[:, asked] > 0
            self.seen.scatter_(1, torch.where(real, self.placed, self.model.config.vocab_size), True)

    def result(self) -> Generated:
        """What every text has become, on the CPU; nothing of passes that it did not need itself."""
        if self.eos_id is not None:
            self.ends.look(self.text, self.number)
        tokens, logprobs = (part[:, 1:-1].cpu() for part in (self.text, self.logprobs))
        placed = (self.turns > KNOWN) & (self.turns <= torch.tensor(self.ends.needed)[:, None])
        open_places = (self.turns > KNOWN) & ~placed
        filler = 0 if self.eos_id is None else self.eos_id
        return Generated(
            tokens.masked_fill(open_places, filler),
            logprobs.masked_fill(~placed, 0.0),
            placed,
            self.ends.places.tolist(),
            self.ends.needed,
        )

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

    def _layout(self, content: Columned, query: Columned, visibility: Visibility) -> Layout:
        c = self.columns
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
            visibility=visibility,
        )
