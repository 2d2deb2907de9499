"""A dataset by its path: a folder on this machine, or a URL whose files come to a cache on it as they are needed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.manifest import MANIFEST_FILE, load_manifest, parse_manifest
from data_pipeline.remote import RemoteFile, Tick, download, is_remote
from data_pipeline.shard_cache import Cache, gigabytes
from data_pipeline.shard_index import Shard, check_shard_file

SMALL_AT_ONCE = 8  # small files are all waiting


class LocalDataset:
    """A dataset in a folder. Attributes: `path` (as the user gave it), `folder`, `manifest`."""

    def __init__(self, path: Path | str) -> None:
        """`DataError` as in `load_manifest`."""
        self.path, self.folder = str(Path(path)), Path(path)
        self.manifest = load_manifest(path)

    def prepare(self) -> None:
        """Look at every shard's file before anything is read. `DataError` where one is missing or truncated."""
        for shard in self.manifest.shards:
            check_shard_file(self.folder, shard)

    def shard(self, number: int) -> Shard:
        """Open shard `number`."""
        return Shard(self.folder, self.manifest.shards[number], self.manifest.dtype)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """The tar of shard `number` lies in `folder` meanwhile."""
        yield


class RemoteDataset:
    """A dataset at a URL. The small files come at once to `folder`, in the cache; a tar when it is first read.

    The folder is named by the manifest's hash: other data at the same URL goes to another one.

    Attributes: `path` (the URL), `folder`, `manifest`, `cache`.
    """

    def __init__(self, url: str, cache: Cache) -> None:
        """`DataError` where there is no manifest, or the tokenizer cannot be had."""
        self.path, self.cache = url.rstrip("/"), cache
        content = BytesIO()
        download(RemoteFile(self._url(MANIFEST_FILE)), content, cache.tick)
        self.manifest = parse_manifest(content.getvalue(), self._url(MANIFEST_FILE))
        names = [
            self.manifest.tokenizer,
            *(name for shard in self.manifest.shards for name in (shard.file, shard.index)),
        ]
        if any("/" in name or name.startswith(".") for name in names):
            raise DataError(f"{self._url(MANIFEST_FILE)}: names files outside of its folder; build the dataset again")
        self.folder = cache.folder / self.manifest.hash()[:16]
        self._have(self.manifest.tokenizer, self.manifest.tokenizer_sha256)

    def prepare(self) -> None:
        """Fetch the indexes. `DataError` where one cannot be had, or the cache is too small for a shard."""
        largest = max(self.manifest.shards, key=lambda shard: shard.bytes)
        if largest.bytes > self.cache.limit:
            raise DataError(
                f"data.cache_gb={gigabytes(self.cache.limit)}: is less than {self._url(largest.file)}, of "
                f"{largest.bytes:,} bytes; use at least data.cache_gb={gigabytes(self.total_bytes)} to keep all shards"
            )
        with ThreadPoolExecutor(max_workers=SMALL_AT_ONCE) as pool:
            list(pool.map(lambda shard: self._have(shard.index, shard.index_sha256), self.manifest.shards))

    def shard(self, number: int) -> Shard:
        """Shard `number`, whose tar is fetched and open only while tokens are read from it."""
        entry = self.manifest.shards[number]
        self._have(entry.index, entry.index_sha256)
        return _CachedShard(self, number)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """The tar of shard `number` and its index lie in `folder` meanwhile."""
        entry = self.manifest.shards[number]
        self._have(entry.index, entry.index_sha256)
        with self.open_tar(number):
            yield

    def open_tar(self, number: int) -> BinaryIO:
        """The tar of shard `number`, fetched first where it is not here; while it is open nobody removes it."""
        return self.cache.open(*self._tar(number))

    def fetch(self, number: int, tick: Tick) -> None:
        """Have the tar of shard `number` here before it is read."""
        self.cache.fetch(*self._tar(number), tick)

    @property
    def total_bytes(self) -> int:
        """Bytes of all tars, and of the small files that are here."""
        small = sum(path.stat().st_size for path in self.folder.glob("*") if path.suffix not in (".tar", ".partial"))
        return small + sum(shard.bytes for shard in self.manifest.shards)

    def _tar(self, number: int) -> tuple[Path, RemoteFile]:
        entry, count = self.manifest.shards[number], len(self.manifest.shards)
        note = f"fetching shard {number + 1} of {count} ({entry.bytes / 1e6:,.1f} MB) of {self.path}"
        return self.folder / entry.file, RemoteFile(self._url(entry.file), entry.bytes, entry.sha256, note)

    def _have(self, name: str, sha256: str) -> None:
        self.cache.open(self.folder / name, RemoteFile(self._url(name), sha256=sha256)).close()

    def _url(self, name: str) -> str:
        return f"{self.path}/{name}"


class _CachedShard(Shard):
    """A shard that others may remove from the cache between two readings, and that is then fetched again."""

    def __init__(self, dataset: RemoteDataset, number: int) -> None:
        self._read_index(dataset.folder, dataset.manifest.shards[number], dataset.manifest.dtype)
        self._dataset, self._number, self._dtype = dataset, number, dataset.manifest.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        with self._mapped():
            return self._gather(start, stop).copy()

    def read_many(self, starts: np.ndarray, length: int) -> np.ndarray:
        with self._mapped():
            return super().read_many(starts, length)

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        with self._dataset.open_tar(self._number) as file:
            self._map(file, self._dtype)
            try:
                yield
            finally:
                del self._tokens  # the mapping too holds the lock


def open_dataset(path: Path | str, cache: Cache | None = None) -> LocalDataset | RemoteDataset:
    """The dataset at a folder or a URL; `cache` is where a remote one's files go, the user's own where none is given.

    `DataError` where there is none.
    """
    return RemoteDataset(str(path), cache or Cache()) if is_remote(path) else LocalDataset(path)
