"""From the nats of items to figures of documents, with intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from armd_dist.evaluation.journal import Part, Record

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """low, high: of 95 %, by bootstrap over documents; None where there is one document only."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Perplexity(Interval):
    """exp of the mean nats per token. For a bound the mean over draws, of the nats or of their bound.

    bits_per_byte: of the text, None where the tokenizer does not tell bytes. heads: of tokens generated one by one at
    the start; parallel: of those generated S at a time; each None without such a phase. steps: passes of the longest
    item. draws: random orders, or maskings, of each item; None for an exact figure. importance: exp of the tighter
    bound -log (1 / draws) sum p per token, for random orders. draw_error: standard error of the nats per token that
    the draws leave on these items, for two of them or more.
    """

    tokens: int
    bytes: int | None
    bits_per_byte: float | None
    documents: int
    heads: float | None
    parallel: float | None
    steps: int | None
    draws: int | None = None
    importance: float | None = None
    draw_error: float | None = None


def summarize(records: Sequence[Record], steps: int | None, draws: int | None, weighted: bool) -> Perplexity:
    """Of all items in their order. weighted: whether the draws are orders, whose probabilities may be averaged."""
    parts = [part for item, _ in records for part in item]
    tokens, size = sum(part[0] for part in parts), sum(part[1] for part in parts)
    nats = math.fsum(_mean(part) for part in parts)
    in_heads, head_nats = sum(part[2] for part in parts), math.fsum(part[3] for part in parts)
    of_documents = np.array([(nats_, count) for nats_, count, _ in documents(records)])
    low, high = bootstrap(of_documents[:, 0], of_documents[:, 1])
    return Perplexity(
        value=math.exp(nats / tokens),
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        tokens=tokens,
        bytes=size or None,
        bits_per_byte=nats / size / math.log(2) if size else None,
        documents=len(of_documents),
        heads=math.exp(head_nats / in_heads) if in_heads else None,
        parallel=math.exp((nats - head_nats) / (tokens - in_heads)) if 0 < in_heads < tokens else None,
        steps=steps,
        draws=draws,
        importance=math.exp(_weighted(records) / tokens) if weighted else None,
        draw_error=None if (draws or 1) < 2 else _draw_error(records) / tokens,
    )


def accuracy(records: Sequence[Record]) -> Interval:
    """Share of the documents whose every scored token was the likeliest."""
    right = np.array([float(likeliest) for _, _, likeliest in documents(records)])
    return Interval(float(right.mean()), *bootstrap(right, np.ones_like(right)))


def price(records: Sequence[Record], first: Sequence[Record]) -> Interval:
    """The perplexity over that of the same items under a first scheme. Documents are drawn for both at once."""
    both = [
        (mine - other, count)
        for (mine, count, _), (other, _, _) in zip(documents(records), documents(first), strict=True)
    ]
    differences, counts = np.array(both).T
    low, high = bootstrap(differences, counts)
    value = math.exp(math.fsum(differences) / counts.sum())
    return Interval(value, None if low is None else math.exp(low), None if high is None else math.exp(high))


def documents(records: Sequence[Record]) -> Iterator[tuple[float, int, bool]]:
    """Nats, tokens, and whether all were the likeliest, of each document, whose parts stand one after another."""
    nats, tokens, likeliest = 0.0, 0, True
    for parts, ends in records:
        for number, part in enumerate(parts):
            nats, tokens, likeliest = nats + _mean(part), tokens + part[0], likeliest and part[5]
            if ends or number < len(parts) - 1:
                yield nats, tokens, likeliest
                nats, tokens, likeliest = 0.0, 0, True
    if tokens:
        yield nats, tokens, likeliest


def bootstrap(sums: np.ndarray, counts: np.ndarray) -> tuple[float | None, float | None]:
    """A 95 % interval of sum(sums) / sum(counts), documents resampled with a fixed seed; None for a single one."""
    if len(sums) < 2:
        return None, None
    generator = np.random.default_rng(0)
    means = np.empty(BOOTSTRAP_DRAWS)
    for draw in range(BOOTSTRAP_DRAWS):
        chosen = generator.integers(len(sums), size=len(sums))
        means[draw] = sums[chosen].sum() / counts[chosen].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _mean(part: Part) -> float:
    return math.fsum(part[4]) / len(part[4])


def _weighted(records: Sequence[Record]) -> float:
    """Nats of the bound by averaged probabilities, item by item."""
    total = []
    for parts, _ in records:
        draws = np.sum([part[4] for part in parts], axis=0)
        total.append(math.log(len(draws)) - float(np.logaddexp.reduce(-draws)))
    return math.fsum(total)


def _draw_error(records: Sequence[Record]) -> float:
    """Of the nats of all items. Rather too large: a denoiser's draws of an item spread their hidden tokens evenly."""
    of_items = [np.sum([part[4] for part in parts], axis=0) for parts, _ in records]
    return math.sqrt(math.fsum(float(np.var(draws, ddof=1)) / len(draws) for draws in of_items))
