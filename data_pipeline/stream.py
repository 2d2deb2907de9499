"""The training stream: sample i is a pure function of (manifest, seed, i), so its place is one integer."""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.open_dataset import open_dataset
from data_pipeline.permutation import items_at
from data_pipeline.shard_cache import Cache
from data_pipeline.shard_index import Shard


class TokenStream:
    """Windows of a dataset's tokens, by number or in a shuffled order that never repeats one within an epoch.

    All documents of all shards, each with its end-of-document token, form one sequence; window i is its tokens
    [i * sequence_length, (i + 1) * sequence_length), and a rest shorter than a window is left out. Every epoch visits
    each window once, in an order of its own drawn from (seed, epoch).

    Reading is stateless: ranks, workers and restarts agree by asking for the same sample numbers. The object can be
    pickled; shards are opened where they are first read.

    Attributes: `path` (as the user gave it), `folder` (where its small files lie on this machine), `manifest`,
    `sequence_length` (tokens), `seed`, `num_windows` (windows in an epoch).
    """

    def __init__(self, folder: Path | str, sequence_length: int, seed: int, cache: Cache | None = None) -> None:
        """Open the dataset at a folder or a URL; `DataError` when it is missing, truncated, or shorter than a window.

        `cache`: where a remote dataset's files go; the user's own where none is given.
        """
        self.files = open_dataset(folder, cache)
        self.path, self.folder, self.manifest = self.files.path, self.files.folder, self.files.manifest
        self.sequence_length = sequence_length
        self.seed = seed
        if sequence_length < 1:
            raise DataError(f"{folder}: sequence_length={sequence_length}; use at least 1")
        self.num_windows = self.manifest.tokens // sequence_length
        if self.num_windows == 0:
            raise DataError(
                f"{folder}: sequence_length={sequence_length} is longer than the corpus of {self.manifest.tokens} "
                "tokens; use a shorter sequence or more text"
            )
        self.files.prepare()
        self._shard_starts = np.cumsum([0] + [shard.tokens for shard in self.manifest.shards])
        self._open: dict[int, Shard] = {}

    def window(self, index: int) -> np.ndarray:
        """Window `index`: int64 [sequence_length]. `IndexError` outside `range(num_windows)`."""
        return self.windows(np.array([index]))[0]

    def windows(self, indices: np.ndarray) -> np.ndarray:
        """Windows by number: int [k] in, int64 [k, sequence_length] out. `DataError` for an id past the vocabulary."""
        indices = np.asarray(indices, dtype=np.int64)
        if indices.size and not 0 <= indices.min() <= indices.max() < self.num_windows:
            raise IndexError(f"windows {indices.min()} to {indices.max()} leave range({self.num_windows})")
        out = np.empty((len(indices), self.sequence_length), dtype=np.int64)
        starts = indices * self.sequence_length
        first = self._shard_of(starts)
        whole = first == self._shard_of(starts + self.sequence_length - 1)
        for number in np.unique(first[whole]).tolist():
            rows = np.flatnonzero(whole & (first == number))
            found = self._shard(number).read_many(starts[rows] - self._shard_starts[number], self.sequence_length)
            self._check_ids(found, number)
            out[rows] = found
        for row in np.flatnonzero(~whole).tolist():
            out[row] = self.tokens(int(starts[row]), int(starts[row]) + self.sequence_length)
            self._check_ids(out[row], int(first[row]))
        return out

    def sample_ids(self, global_indices: np.ndarray) -> np.ndarray:
        """Window numbers of samples counted from the start of training: int [k] in, int64 [k] out."""
        epochs, positions = np.divmod(np.asarray(global_indices, dtype=np.int64), self.num_windows)
        out = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            out[rows] = items_at(self.num_windows, (self.seed, epoch), positions[rows])
        return out

    def samples(self, global_indices: np.ndarray) -> np.ndarray:
        """Samples counted from the start of training: int [k] in, int64 [k, sequence_length] tokens out."""
        return self.windows(self.sample_ids(global_indices))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the whole sequence, across shards: int64 [stop - start]."""
        first, last = self._shard_of(np.array([start, stop - 1])).tolist()
        parts = []
        for number in range(first, last + 1):
            origin, end = self._shard_starts[number : number + 2].tolist()
            parts.append(self._shard(number).read(max(start, origin) - origin, min(stop, end) - origin))
        return np.concatenate(parts).astype(np.int64)

    def shards(self, global_indices: np.ndarray) -> np.ndarray:
        """Numbers of the shards that `samples` reads, in the order in which it reads them: int64."""
        starts = self.sample_ids(global_indices) * self.sequence_length
        first, last = self._shard_of(starts), self._shard_of(starts + self.sequence_length - 1)
        return np.unique(np.concatenate([np.arange(low, high + 1) for low, high in zip(first, last, strict=True)]))

    def _shard_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._shard_starts, positions, side="right") - 1

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = self.files.shard(number)
        return self._open[number]

    def _check_ids(self, tokens: np.ndarray, shard: int) -> None:
        if tokens.max() >= self.manifest.vocab_size:
            raise DataError(
                f"{self.path}/{self.manifest.shards[shard].file}: holds token id {tokens.max()}, and the vocabulary "
                f"has {self.manifest.vocab_size}; the shard is damaged, see `armd data verify {self.path}`"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}
