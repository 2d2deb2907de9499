"""Nats of every token, from the model as it lies on this process or on the processes of one share."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from armd_dist.evaluation.items import Item, Source
from armd_dist.evaluation.schemes import Scheme
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.network import Network
from armd_dist.objectives.learned_order import BoundBatch
from armd_dist.objectives.likelihood import MicroBatch
from armd_dist.parallel.pipeline import Pipeline


class Scores(NamedTuple):
    """nats, weighted as the micro-batch says; likeliest: whether no token is likelier. [batch, rows], on the CPU."""

    nats: Tensor
    likeliest: Tensor


class Scorer:
    """The network of this process, or its stage of it and the pipeline through all."""

    def __init__(self, network: Network, pipeline: Pipeline | None = None) -> None:
        self.network, self.pipeline = network, pipeline
        self.device = next(network.parameters()).device

    @torch.no_grad()
    def score(self, batches: Sequence[MicroBatch]) -> list[Scores]:
        """Of each batch; [] on all stages of a pipeline but the last. Collective over a share."""
        if self.pipeline is not None:
            alike = [list(group) for _, group in groupby(batches, key=lambda batch: batch.targets.shape)]
            return [scores for group in alike for scores in self.pipeline.read(group, self._scores)]
        return [self._one(batch.to(self.device)) for batch in batches]

    def _one(self, batch: MicroBatch) -> Scores:
        if not isinstance(batch, BoundBatch):
            return self._scores(batch, self.network(batch.layout))
        assert isinstance(self.network, LearnedOrderDenoiser), "the only one that such a scheme is made for"
        nats = batch.nats(self.network).double().cpu()
        return Scores(nats, torch.zeros_like(nats, dtype=torch.bool))

    def _scores(self, batch: MicroBatch, logits: Tensor) -> Scores:
        layers = self.network.layers
        likeliest = layers.likeliest(logits, batch.targets).t().cpu()
        nats = layers.token_nll(logits, batch.targets).t().double().cpu()
        return Scores(nats if batch.weights is None else nats * batch.weights.cpu(), likeliest)


class ItemScores(NamedTuple):
    """Of one item's scored tokens in text order: nats [draws, tokens]; likeliest [tokens], of the first draw."""

    nats: Tensor
    likeliest: Tensor


def score_items(
    scorer: Scorer, scheme: Scheme, source: Source, batches: Sequence[Sequence[int]], bos_id: int
) -> list[list[ItemScores]]:
    """Of the items of each batch, by number; [] where this process holds no answers. Collective over a share."""
    items = [source.items(numbers) for numbers in batches]
    laid = [
        scheme.batch(batch, numbers, draw, bos_id, source.eos_id)
        for batch, numbers in zip(items, batches, strict=True)
        for draw in range(scheme.draws)
    ]
    found = scorer.score([batch for batch, _ in laid])
    if not found:
        return []
    texts = [
        (_in_text_order(one.nats, places), _in_text_order(one.likeliest, places))
        for one, (_, places) in zip(found, laid, strict=True)
    ]
    draws = [texts[first : first + scheme.draws] for first in range(0, len(texts), scheme.draws)]
    return [_of_items(batch, of_batch) for batch, of_batch in zip(items, draws, strict=True)]


def _of_items(items: Sequence[Item], draws: Sequence[tuple[Tensor, Tensor]]) -> list[ItemScores]:
    nats, likeliest = torch.stack([nats for nats, _ in draws]), draws[0][1]
    scored = [slice(item.known, len(item.tokens)) for item in items]
    return [ItemScores(nats[:, row, own], likeliest[row, own]) for row, own in enumerate(scored)]


def _in_text_order(values: Tensor, places: Tensor) -> Tensor:
    return torch.empty_like(values).scatter_(1, places - 1, values)
