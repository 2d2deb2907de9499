"""Several datasets as one stream: sample i is a pure function of (manifests, weights, seed, i)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.manifest import Manifest
from data_pipeline.stream import TokenStream
from data_pipeline.turns import Turns


class Places(NamedTuple):
    """Where samples come from: the dataset's number in the mixture, its epoch, its window; int64 [k] each."""

    dataset: np.ndarray
    epoch: np.ndarray
    window: np.ndarray


@dataclass(frozen=True)
class Consumed:
    """How far a dataset has been read: `path` as the user gave it, samples, and epochs of all its windows."""

    path: str
    samples: int
    epochs: float


class Mixture:
    """Datasets that take turns by weight; each goes through its own epochs, in its own order.

    Within a dataset nothing is skipped or repeated: its k-th turn is sample k of its `TokenStream`, whatever the others
    do. One dataset alone gives exactly its stream.

    Attributes: `streams`; `manifest`, of all datasets together: counts are sums, its hash covers each dataset's hash,
    and with one dataset it is that one's.
    """

    def __init__(self, streams: Sequence[TokenStream], weights: Sequence[Mapping[int, float]]) -> None:
        """`weights` as in `Turns`. `DataError` unless all datasets were made by one tokenizer."""
        self.streams = list(streams)
        self.manifest = _together(self.streams)
        self._turns = Turns(weights)

    def samples(self, global_indices: np.ndarray) -> np.ndarray:
        """Samples counted from the start of training: int [k] in, int64 [k, sequence_length] tokens out."""
        datasets, turns = self._turns.turns(global_indices)
        if len(self.streams) == 1:
            return self.streams[0].samples(turns)
        out = np.empty((len(datasets), self.streams[0].sequence_length), dtype=np.int64)
        for number, rows in _rows_of(datasets):
            out[rows] = self.streams[number].samples(turns[rows])
        return out

    def places(self, global_indices: np.ndarray) -> Places:
        """Where samples come from: int [k] in."""
        datasets, turns = self._turns.turns(global_indices)
        found = Places(datasets, np.empty_like(turns), np.empty_like(turns))
        for number, rows in _rows_of(datasets):
            stream = self.streams[number]
            found.epoch[rows] = turns[rows] // stream.num_windows
            found.window[rows] = stream.sample_ids(turns[rows])
        return found

    def shards(self, global_indices: np.ndarray) -> list[tuple[int, int]]:
        """(dataset, shard) of everything that `samples` reads, in about the order in which it reads them."""
        datasets, turns = self._turns.turns(global_indices)
        needed = ((number, self.streams[number].shards(turns[rows])) for number, rows in _rows_of(datasets))
        return [(number, shard) for number, shards in needed for shard in shards.tolist()]

    def consumed(self, samples: int) -> list[Consumed]:
        """How far each dataset has been read after the first `samples` samples of training."""
        return [
            Consumed(stream.path, count, count / stream.num_windows)
            for stream, count in zip(self.streams, self._turns.counts(samples), strict=True)
        ]


def _rows_of(datasets: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(number, np.flatnonzero(datasets == number)) for number in np.unique(datasets).tolist()]


def _together(streams: list[TokenStream]) -> Manifest:
    first, *others = streams
    for other in others:
        if other.manifest.tokenizer_sha256 != first.manifest.tokenizer_sha256:
            raise DataError(
                f"{other.path}: made by another tokenizer ({other.manifest.vocab_size} ids) than {first.path} "
                f"({first.manifest.vocab_size} ids); build both with one tokenizer"
            )
    if not others:
        return first.manifest
    manifests = [stream.manifest for stream in streams]
    return replace(
        first.manifest,
        documents=sum(manifest.documents for manifest in manifests),
        tokens=sum(manifest.tokens for manifest in manifests),
        sources=(),
        build={"mixture_of": [manifest.hash() for manifest in manifests]},
        shards=(),
    )
