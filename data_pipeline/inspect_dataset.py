"""What a dataset holds, as plain data for a person to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest, ShardEntry
from data_pipeline.open_dataset import open_dataset
from data_pipeline.shard_index import ShardIndex
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

SAMPLE_TOKENS = 60
QUANTILES = (0, 0.1, 0.5, 0.9, 1)


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
    """Look at the dataset at a folder or URL; `samples` documents come from even distances. `DataError` if damaged.

    Memory: one shard's index, and 16 bytes for each length that occurs, which are at most sqrt(2 x tokens).
    """
    files = open_dataset(folder)
    manifest = files.manifest
    if not manifest.documents:
        raise DataError(f"{folder}: holds no document; a part of a build may, merge it with the others")
    stream = TokenStream(folder, sequence_length=1, seed=0)
    lengths, counts = _lengths(stream.folder, manifest)
    doublings, places = np.unique(np.floor(np.log2(lengths)).astype(np.int64), return_inverse=True)
    documents = np.zeros(len(doublings), dtype=np.int64)
    np.add.at(documents, places, counts)
    ends = np.cumsum(counts)
    ranks = [round(share * (manifest.documents - 1)) for share in QUANTILES]
    return Inspection(
        folder=folder,
        manifest=manifest,
        quantiles=tuple(lengths[np.searchsorted(ends, ranks, side="right")].tolist()),
        histogram=tuple(zip((1 << doublings).tolist(), documents.tolist(), strict=True)),
        samples=_samples(stream, min(samples, manifest.documents)),
    )


def _document_lengths(folder: Path, shard: ShardEntry) -> np.ndarray:
    lengths = ShardIndex.load(folder / shard.index).document_lengths
    if (len(lengths), int(lengths.sum())) != (shard.documents, shard.tokens):
        raise DataError(f"{folder / shard.index}: the index of another tar than {shard.file}; build again")
    return lengths


def _lengths(folder: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The lengths that occur, ascending, and the documents of each: int64 both."""
    lengths = counts = np.empty(0, dtype=np.int64)
    for shard in manifest.shards:
        found, times = np.unique(_document_lengths(folder, shard), return_counts=True)
        lengths, places = np.unique(np.concatenate([lengths, found]), return_inverse=True)
        times = np.concatenate([counts, times])
        counts = np.zeros(len(lengths), dtype=np.int64)
        np.add.at(counts, places, times)
    return lengths, counts


def _samples(stream: TokenStream, count: int) -> tuple[tuple[int, str], ...]:
    folder, manifest = stream.folder, stream.manifest
    tokenizer = Tokenizer.load(folder / manifest.tokenizer)
    first_documents = np.cumsum([0] + [shard.documents for shard in manifest.shards])
    first_tokens = np.cumsum([0] + [shard.tokens for shard in manifest.shards])
    found = []
    for number in [(2 * place + 1) * manifest.documents // (2 * count) for place in range(count)]:
        shard = int(np.searchsorted(first_documents, number, side="right")) - 1
        lengths = _document_lengths(folder, manifest.shards[shard])
        inside = number - int(first_documents[shard])
        start = int(first_tokens[shard] + lengths[:inside].sum())
        tokens = stream.tokens(start, start + int(min(SAMPLE_TOKENS, lengths[inside])))
        found.append((number, tokenizer.decode(tokens.tolist())))
    return tuple(found)
