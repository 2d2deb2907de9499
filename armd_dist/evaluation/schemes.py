"""How items are scored: exactly under a fixed order, or bounded by drawn orders or maskings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from armd_dist.evaluation.items import Item
from armd_dist.generation.requests import Ordering
from armd_dist.model.denoiser import lay_out_masked
from armd_dist.model.layout import lay_out
from armd_dist.model.shapes import Ids
from armd_dist.objectives.documents import tokens_before
from armd_dist.objectives.learned_order import BoundBatch, lay_out_known
from armd_dist.objectives.likelihood import MicroBatch, stored
from armd_dist.objectives.masked_diffusion import draw_masking, nelbo_weights
from armd_dist.orders.masking import masking_noise, masking_times
from armd_dist.orders.order import Integers, Order
from armd_dist.orders.strided import num_heads

SEED = 0  # evaluations of equal models are equal


@dataclass(frozen=True)
class Ordered:
    """Under an order of the tokens to score, behind their context, which is revealed left to right.

    draws: orders drawn for each item, for the bound by random ones. Texts shorter than the streams take one stream for
    each token.
    """

    name: str
    ordering: Ordering
    draws: int = 1

    @property
    def exact(self) -> bool:
        return self.ordering.name != "random"

    def order(self, count: int, sample: int) -> Order:
        """Of `count` tokens; sample: item * draws + draw, which keys what is drawn."""
        if self.ordering.name == "strided":
            return Ordering("strided", min(self.ordering.streams, count)).order(count, SEED)
        return self.ordering.order(count, (SEED, sample))

    def steps(self, count: int) -> int:
        """Passes that fill `count` tokens."""
        return int(self.order(count, 0).block.max())

    def heads(self, count: int) -> np.ndarray | None:
        """[count] which tokens come one by one before streams go side by side; None for other orders."""
        if self.ordering.name not in ("strided", "left_to_right"):
            return None
        order, streams = self.order(count, 0), min(self.ordering.streams, count)
        heads = np.empty(count, dtype=bool)
        # A single stream has no parallel phase: all of it is generated token by token.
        heads[order.position - 1] = order.block <= (num_heads(count, streams) if streams > 1 else count)
        return heads

    def batch(
        self, items: Sequence[Item], numbers: Sequence[int], draw: int, bos_id: int, eos_id: int | None
    ) -> tuple[MicroBatch, Ids]:
        """The items side by side, padded at their end with tokens that nobody sees; and the places of its rows.

        numbers: of the items; draw: which of their draws.
        """
        longest = max(len(item.tokens) for item in items)
        orders = [
            self._whole(item, number * self.draws + draw, longest) for item, number in zip(items, numbers, strict=True)
        ]
        tokens = padded(items, bos_id)
        places, blocks, before = stored(tokens, orders, eos_id)
        revealed = tokens.gather(1, places - 1)
        return MicroBatch(lay_out(revealed, places, blocks, bos_id, before), revealed), places

    def _whole(self, item: Item, sample: int, longest: int) -> Order:
        """The context, the tokens to score, and padding, each behind the one before."""
        own = self.order(len(item.documents), sample)
        last = item.known + int(own.block.max())
        padding: Integers = np.arange(len(item.tokens), longest)
        context: Integers = np.arange(1, item.known + 1)
        return Order(
            np.concatenate((context, item.known + own.position, padding + 1)),
            np.concatenate((context, item.known + own.block, last + 1 + np.arange(len(padding)))),
        )


@dataclass(frozen=True)
class Masked:
    """Under drawn maskings, for a denoiser; a batch's items must have one shape. block_length: None for whole texts."""

    name: str
    block_length: int | None
    draws: int
    exact: bool = False

    def steps(self, count: int) -> None:
        return None

    def heads(self, count: int) -> None:
        return None

    def batch(
        self, items: Sequence[Item], numbers: Sequence[int], draw: int, bos_id: int, eos_id: int | None
    ) -> tuple[MicroBatch, Ids]:
        """As `Ordered.batch`; a known token's nats are 0."""
        known, count = items[0].known, len(items[0].documents)
        ids = padded(items, bos_id)
        hidden = draw_masking(count, self.block_length or count, SEED, [n * self.draws + draw for n in numbers])
        weights = nelbo_weights(hidden, self.block_length or count)
        masked, weights = (torch.nn.functional.pad(part, (known, 0)) for part in (hidden, weights))
        before = None if eos_id is None else tokens_before(ids, eos_id)
        layout = lay_out_masked(ids, masked, self.block_length or ids.shape[1], bos_id, before)
        return MicroBatch(layout, ids, weights), torch.arange(1, ids.shape[1] + 1).expand_as(ids)


@dataclass(frozen=True)
class LearnedOrder:
    """A bound of a learned order, under drawn maskings; a batch's items must have one shape. timeless: as of
    `BoundBatch`."""

    name: str
    draws: int
    timeless: bool
    exact: bool = False

    def steps(self, count: int) -> None:
        return None

    def heads(self, count: int) -> None:
        return None

    def batch(
        self, items: Sequence[Item], numbers: Sequence[int], draw: int, bos_id: int, eos_id: int | None
    ) -> tuple[MicroBatch, Ids]:
        """As `Ordered.batch`. eos_id: None, as a learned order knows no documents."""
        known, count = items[0].known, len(items[0].documents)
        ids, samples = padded(items, bos_id), [number * self.draws + draw for number in numbers]
        batch = BoundBatch(
            lay_out_known(ids, bos_id),
            ids,
            share=torch.from_numpy(masking_times(SEED, samples)),
            noise=torch.from_numpy(masking_noise(count, SEED, samples, draw=0)),
            known=known,
            timeless=self.timeless,
        )
        return batch, torch.arange(1, ids.shape[1] + 1).expand_as(ids)


Scheme = Ordered | Masked | LearnedOrder


def padded(items: Sequence[Item], bos_id: int) -> Ids:
    """[items, tokens of the longest]."""
    made = torch.full((len(items), max(len(item.tokens) for item in items)), bos_id)
    for row, item in enumerate(items):
        made[row, : len(item.tokens)] = torch.from_numpy(item.tokens)
    return made
