"""Every item of a source scored under every scheme, by all processes together."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from armd_dist.evaluation.items import Item, Source, make_batches
from armd_dist.evaluation.journal import Journal, Part, Record, key_of
from armd_dist.evaluation.perplexity import Perplexity, summarize
from armd_dist.evaluation.schemes import Ordered, Scheme
from armd_dist.evaluation.scoring import ItemScores, Scorer, score_items
from armd_dist.evaluation.team import Team

Advance = Callable[[int], object]


class Evaluation:
    """Of one source by one model. What is computed together is a function of the source and the batch size alone, and
    sums are taken on rank 0 in the source's order: so the figures do not depend on the number of shares.

    journal: keeps what is done, where an interrupted evaluation shall go on; settings: all that decides the scores of
    this source, the scheme excepted.
    """

    def __init__(
        self,
        scorer: Scorer,
        source: Source,
        bos_id: int,
        batch_size: int = 16,
        team: Team = Team(),
        journal: Journal[Record] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        self.scorer, self.source, self.bos_id, self.team = scorer, source, bos_id, team
        self.batch_size, self.journal, self.settings = batch_size, journal, settings or {}

    def records(self, scheme: Scheme, advance: Advance = lambda _: None) -> list[Record]:
        """Of every item in its order, on rank 0; [] elsewhere. `advance` is told of rows that were read. Collective."""
        batches = make_batches(self.source.shapes, self.batch_size, ragged=isinstance(scheme, Ordered))
        key = key_of({**self.settings, "scheme": repr(scheme), "batch_size": self.batch_size})
        done = self._done(key)
        advance(sum(len(batches[number]) for number in done) * scheme.draws)
        todo = [number for number in range(len(batches)) if number not in done]
        depth = self.team.depth
        for first in range(0, len(todo), self.team.shares * depth):
            turn = todo[first : first + self.team.shares * depth]
            mine = turn[self.team.share * depth : (self.team.share + 1) * depth]
            for number, records in chain(*self.team.gather(self._score(scheme, mine, batches))):
                done[number] = records
                if self.journal is not None:
                    self.journal.append(key, number, records)
            advance(sum(len(batches[number]) for number in turn) * scheme.draws)
        if self.team.rank:
            return []
        of_item = {
            item: record for n, records in done.items() for item, record in zip(batches[n], records, strict=True)
        }
        return [of_item[number] for number in range(len(self.source.shapes))]

    def perplexity(self, scheme: Scheme, advance: Advance = lambda _: None) -> Perplexity | None:
        """Of the whole source, on rank 0. Collective."""
        records = self.records(scheme, advance)
        return figures(scheme, self.source, records) if records else None

    def _done(self, key: str) -> dict[int, list[Record]]:
        """Batches that are scored already. On other ranks than 0 their numbers alone."""
        done = self.journal.read(key) if self.journal is not None and self.team.rank == 0 else {}
        numbers = self.team.told(sorted(done))
        return done if self.team.rank == 0 else {number: [] for number in numbers}

    def _score(self, scheme: Scheme, mine: list[int], batches: list[list[int]]) -> list[tuple[int, list[Record]]]:
        """Numbers and records of these batches, where this process holds the answers."""
        found = score_items(self.scorer, scheme, self.source, [batches[number] for number in mine], self.bos_id)
        return [
            (number, [_record(scheme, item, one) for item, one in self._paired(batches[number], scores)])
            for number, scores in zip(mine, found, strict=bool(found))
        ]

    def _paired(self, numbers: list[int], scores: list[ItemScores]) -> Iterator[tuple[Item, ItemScores]]:
        return zip(self.source.items(numbers), scores, strict=True)


def figures(scheme: Scheme, source: Source, records: Sequence[Record]) -> Perplexity:
    """The figures of records under their scheme."""
    steps = [scheme.steps(count) or 0 for count in {tokens - known for tokens, known in source.shapes}]
    weighted = isinstance(scheme, Ordered) and not scheme.exact
    return summarize(records, max(steps) or None, None if scheme.exact else scheme.draws, weighted)


def _record(scheme: Scheme, item: Item, scores: ItemScores) -> Record:
    heads = scheme.heads(len(item.documents))
    of_heads = np.zeros(len(item.documents)) if heads is None else heads
    count = int(item.documents[-1]) + 1

    def sums(values: np.ndarray | torch.Tensor) -> list[float]:
        return np.bincount(item.documents, np.asarray(values, dtype=np.float64), count).tolist()

    tokens, head_tokens = sums(np.ones(len(item.documents))), sums(of_heads)
    draws = list(zip(*(sums(draw) for draw in scores.nats), strict=True))
    head_nats, wrong = sums(scores.nats[0].numpy() * of_heads), sums(~scores.likeliest)
    sizes = item.bytes or [0] * count
    parts: list[Part] = [
        (int(tokens[n]), sizes[n], int(head_tokens[n]), head_nats[n], list(draws[n]), wrong[n] == 0)
        for n in range(count)
    ]
    return parts, item.ends
