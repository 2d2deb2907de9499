"""How varied samples are, from their tokens alone. A low perplexity under a judge says little without these."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Tokens = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Diversity:
    """entropy: mean over samples of the entropy of a sample's own token frequencies, in nats (as MDLM and those after
    it report beside generative perplexity). distinct_n: different n-grams of all samples / all their n-grams (Li et
    al. 2016). repetition_4: mean over samples of the share of 4-grams that were there before in the sample
    (Welleck et al. 2020). None where no sample is as long as an n-gram.

    distinct_n falls with the number and the length of samples, entropy grows with their length: only equals compare.
    """

    entropy: float
    distinct_1: float
    distinct_2: float | None
    distinct_3: float | None
    repetition_4: float | None


def diversity(samples: Tokens) -> Diversity:
    """Of samples with at least one token each."""
    repeated = [1 - len(set(grams)) / len(grams) for one in samples if (grams := ngrams(one, 4))]
    distinct_1 = _distinct(samples, 1)
    assert distinct_1 is not None, "samples are not empty"
    return Diversity(
        entropy=float(np.mean([unigram_entropy(one) for one in samples])),
        distinct_1=distinct_1,
        distinct_2=_distinct(samples, 2),
        distinct_3=_distinct(samples, 3),
        repetition_4=float(np.mean(repeated)) if repeated else None,
    )


def unigram_entropy(sample: Sequence[int]) -> float:
    """Of the sample's token frequencies, in nats: from 0 for one token over and over to log(length)."""
    _, counts = np.unique(np.asarray(sample), return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def ngrams(sample: Sequence[int], n: int) -> list[tuple[int, ...]]:
    """All of a sample, in their sequence; none where it is shorter."""
    return list(zip(*(sample[start:] for start in range(n)), strict=False))


def _distinct(samples: Tokens, n: int) -> float | None:
    grams = [gram for one in samples for gram in ngrams(one, n)]
    return len(set(grams)) / len(grams) if grams else None
