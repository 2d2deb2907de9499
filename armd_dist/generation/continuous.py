"""Continuous batching: texts join and leave between any two passes, each in an order and at a pass of its own.

A step reads, for all texts together, the block that each has just placed beside the query rows of its next one, as
`Decoding` does for texts that begin together. Rows of a text with fewer of them than the widest are padded in front.
Columns stand in the sequence of revelation, so that what a row may see is a count of columns, and a padded row sees
the first alone. Texts that join are read in passes of their own, so that nobody is padded to a prompt's length.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from armd_dist.generation.sampling import Sampling, sample
from armd_dist.generation.slots import make_slots
from armd_dist.generation.underway import (
    BEGIN,
    END,
    LEFT,
    LEFT_DISTANCE,
    PLACE,
    RIGHT,
    RIGHT_DISTANCE,
    SLOT,
    Text,
    check_room,
)
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout
from armd_dist.model.neighbours import Neighbours
from armd_dist.model.visibility import Mask, Visibility


class ContinuousDecoder:
    """A model with slots for texts. Those under way hold the first slots, without a gap."""

    def __init__(self, model: ARMD, slots: int) -> None:
        self.model, self.slots, self.longest = model, slots, model.config.max_sequence_length
        self.device = next(model.parameters()).device
        self.caches, self.content, self.query = make_slots(model.config, slots)
        self.texts: list[Text] = []

    @property
    def free(self) -> int:
        """Slots without a text."""
        return self.slots - len(self.texts)

    @torch.no_grad()
    def step(self, joining: Sequence[Text] = ()) -> list[Text]:
        """One pass of every text, those that join included; returns them all. Those done have left their slots.

        Raises ValueError, before anything is done, for more texts than slots or a text that the model cannot take.
        """
        if len(joining) > self.free:
            raise ValueError(f"{len(joining)} texts join, and {self.free} of {self.slots} slots are free")
        for text in joining:
            check_room(text.prepared, self.longest)
        under_way = len(self.texts)
        self.texts += sorted(joining, key=lambda text: text.ends[1])
        if under_way:
            self._pass(0, under_way)
        for first, last in self._prompts(under_way):
            self._pass(first, last)
        stepped = list(self.texts)
        for text in stepped:
            if text.done:
                self.leave(text)
        return stepped

    def leave(self, text: Text) -> None:
        """Frees a text's slot; the last text moves into it. Numbers that are not finite leave with it."""
        slot = self.texts.index(text)
        if not np.isfinite(text.logprobs).all():
            for cache in self.caches:
                cache.wipe(slot)
        last = self.texts.pop()
        if last is not text:
            self.texts[slot] = last
            for cache in self.caches:
                cache.move(len(self.texts), slot, width=last.ends[last.number])

    def clear(self) -> None:
        """Lets all texts go."""
        self.texts = []

    def _prompts(self, first: int) -> Iterator[tuple[int, int]]:
        """Texts that join, cut where padding would be more than the rows of the shorter ones; they come by length."""
        last = first
        while first < len(self.texts):
            while last < len(self.texts) and self.texts[last].ends[1] <= 2 * self.texts[first].ends[1]:
                last += 1
            yield first, last
            first = last

    def _pass(self, first: int, last: int) -> None:
        """The next pass of the texts in these slots."""
        texts = self.texts[first:last]
        layout = self._layout(texts, first)
        most = max(text.block.stop - text.block.start for text in texts)
        # Without the vocabulary's padding, as in `Decoding`.
        logits = self.model(layout, self.caches, asked=most)[..., : self.model.config.vocab_size]
        for sampling, rows in _alike(texts):
            _place([texts[row] for row in rows], sampling, logits if len(rows) == len(texts) else logits[:, rows])

    def _layout(self, texts: Sequence[Text], first: int) -> Layout:
        ids, places, seen, own = self._rows(texts, [text.content for text in texts], (SLOT, PLACE, END))
        near = (LEFT, LEFT_DISTANCE, RIGHT, RIGHT_DISTANCE)
        *neighbours, asked, earlier, upto, mine = self._rows(
            texts, [text.query for text in texts], (*near, PLACE, BEGIN, END)
        )
        # Content's columns begin with BOS, those of the query behind it.
        self.content.first = self.query.first = first
        self.content.columns, self.query.columns = own, torch.where(mine == self.longest, mine, mine - 1)
        self.content.width = max(text.content.stop for text in texts)
        self.query.width = max(text.query.stop for text in texts) - 1
        return Layout(
            content_ids=ids,
            content_positions=places,
            query_positions=asked,
            neighbours=Neighbours(*neighbours),
            visibility=Visibility(
                content=_mask(seen, self.content.width),
                query=_mask(earlier, self.content.width),
                upper=_mask(upto - 1, self.query.width),
            ),
        )

    def _rows(self, texts: Sequence[Text], spans: Sequence[slice], fields: Sequence[int]) -> Tensor:
        """[fields and the rows' own columns, texts, rows]; padding, in front, is 0 and has the cache's last column."""
        rows = max(span.stop - span.start for span in spans)
        made = np.zeros((len(fields) + 1, len(texts), rows), dtype=np.int64)
        made[-1] = self.longest
        for number, (text, span) in enumerate(zip(texts, spans, strict=True)):
            mine = made[:, number, rows - (span.stop - span.start) :]
            mine[:-1] = text.rows(fields, span)
            mine[-1] = np.arange(span.start, span.stop)
        return torch.from_numpy(made).to(self.device)


def _mask(seen: Tensor, width: int) -> Mask:
    """Of rows [texts, rows] that see so many leading columns of `width`; a row of padding sees the first."""
    return Mask(dense=torch.arange(width, device=seen.device) < seen.clamp(min=1)[:, :, None])


def _alike(texts: Sequence[Text]) -> Iterator[tuple[Sampling, list[int]]]:
    """Rows whose tokens are drawn in the same way."""
    groups: dict[Sampling, list[int]] = {}
    for row, text in enumerate(texts):
        groups.setdefault(text.sampling, []).append(row)
    yield from groups.items()


def _place(texts: Sequence[Text], sampling: Sampling, logits: Tensor) -> None:
    """Draws the next block of every text. logits: [rows, texts, vocab], a text's own rows last."""
    counts = [text.block.stop - text.block.start for text in texts]
    uniforms = np.zeros((len(logits), len(texts)))
    for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
        uniforms[len(logits) - count :, number] = text.uniforms[text.table[SLOT, text.block]]
    seen = None
    if sampling.repetition_penalty != 1:
        seen = torch.from_numpy(np.stack([text.seen(logits.shape[-1]) for text in texts])).to(logits.device)
    # Numbers that are not finite are their own text's trouble: some token is drawn, with NaN for its nats.
    finite = logits.isfinite().all(-1)
    given = torch.where(finite[..., None], logits, 0.0)
    tokens, logprobs = sample(given, sampling, torch.from_numpy(uniforms).to(logits.device), seen)
    drawn, nats = tokens.cpu().numpy(), logprobs.double().where(finite, torch.nan).cpu().numpy()
    for number, (text, count) in enumerate(zip(texts, counts, strict=True)):
        text.put(drawn[-count:, number], nats[-count:, number], _likeliest(logits[-count:, number], text.top))


def _likeliest(logits: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """For each row the likeliest tokens under the model itself, with their nats."""
    if count == 0:
        return []
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    nats, tokens = wide.topk(min(count, wide.shape[-1]), dim=-1)
    return [list(zip(*row, strict=True)) for row in zip(tokens.tolist(), nats.tolist(), strict=True)]
