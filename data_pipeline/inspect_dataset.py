"""What a dataset holds, as plain data for a person to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.manifest import Manifest
from data_pipeline.shard_index import ShardIndex
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

SAMPLE_TOKENS = 60


@dataclass(frozen=True)
class Inspection:
    """Counts, lengths and samples of one dataset; `folder` as the user gave it.

    `quantiles`: document length in tokens at 0, 10, 50, 90 and 100 %. `histogram`: (shortest length, documents) of each
    doubling of the length that occurs. `samples`: (document number, text of its first tokens).
    """

    folder: Path | str
    manifest: Manifest
    quantiles: tuple[int, ...]
    histogram: tuple[tuple[int, int], ...]
    samples: tuple[tuple[int, str], ...]


def inspect_dataset(folder: Path | str, samples: int = 3) -> Inspection:
    """Look at the dataset at a folder or URL; `samples` documents come from even distances. `DataError` if damaged."""
    stream = TokenStream(folder, sequence_length=1, seed=0)
    manifest = stream.manifest
    indexes = (ShardIndex.load(stream.folder / shard.index) for shard in manifest.shards)
    lengths = np.concatenate([index.document_lengths for index in indexes])
    doublings, counts = np.unique(np.floor(np.log2(lengths)).astype(np.int64), return_counts=True)
    return Inspection(
        folder=folder,
        manifest=manifest,
        quantiles=tuple(np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1], method="nearest").astype(int).tolist()),
        histogram=tuple(zip((1 << doublings).tolist(), counts.tolist(), strict=True)),
        samples=_samples(stream, lengths, min(samples, len(lengths))),
    )


def _samples(stream: TokenStream, lengths: np.ndarray, count: int) -> tuple[tuple[int, str], ...]:
    tokenizer = Tokenizer.load(stream.folder / stream.manifest.tokenizer)
    ends = np.cumsum(lengths)
    numbers = [(2 * place + 1) * len(lengths) // (2 * count) for place in range(count)]
    found = []
    for number in numbers:
        start = int(ends[number] - lengths[number])
        tokens = stream.tokens(start, start + int(min(SAMPLE_TOKENS, lengths[number])))
        found.append((number, tokenizer.decode(tokens.tolist())))
    return tuple(found)
