"""Remote shards ahead of the order: what coming samples need is known, so it is fetched before they are read."""

import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture
from data_pipeline.open_dataset import RemoteDataset
from data_pipeline.remote import Stopped
from data_pipeline.shard_cache import gigabytes

AT_ONCE = 4  # downloads of one process

Remote = dict[int, RemoteDataset]  # by number in the mixture; all of them in one cache


def check_room(mixture: Mixture) -> list[str]:
    """What to tell the user before training where the remote shards do not fit in their cache.

    Raises `DataError` where not even those fit that are read, and fetched ahead, at a time.
    """
    remote = _remote(mixture)
    if not remote or _fits(remote):
        return []
    cache, total = next(iter(remote.values())).cache, _total(remote)
    largest = max(shard.bytes for files in remote.values() for shard in files.manifest.shards)
    has, all_of_it = f"data.cache_gb={gigabytes(cache.limit)}", f"data.cache_gb={gigabytes(total)}"
    if cache.limit < (least := 2 * cache.readers * largest):
        raise DataError(
            f"{has}: {cache.readers} process(es) of this machine read a shard of up to {largest:,} bytes each and "
            f"fetch one ahead, {least:,} bytes together; use {all_of_it} to keep all, at least {gigabytes(least)}"
        )
    return [
        f"{has}: the remote shards have {total:,} bytes. Samples come from all of them in random order, so that about "
        f"{1 - cache.limit / total:.0%} of what is read must be fetched again and again; {all_of_it} keeps all of them"
    ]


class Prefetch:
    """Fetches shards while its block runs, in the order in which `batches` need them; nothing for local datasets.

    Where all shards fit in the cache it goes through them once, as fast as they come. Where they do not, it stays one
    batch ahead, within half of this process' share of the cache: the rest is for what is being read.

    A shard that cannot be had is no error here: whoever reads it will meet the same.
    """

    def __init__(self, mixture: Mixture, batches: Iterable[np.ndarray]) -> None:
        """`batches`: sample numbers (int [k]) of this process, in the order in which they will be read."""
        self._mixture, self._batches, self._remote = mixture, batches, _remote(mixture)
        self._fits = _fits(self._remote)
        self._reached, self._stopping = 0, False
        self._changed = threading.Condition()
        self._wanted: queue.SimpleQueue[tuple[int, RemoteDataset, int] | None] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        if self._remote:
            for work in (self._ask, *[self._fetch] * AT_ONCE):
                # Nobody waits for them at the end: a server may have fallen silent.
                threading.Thread(target=work, name="prefetch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for _end in range(AT_ONCE):
            self._wanted.put(None)

    def reached(self, batch: int) -> None:
        """Say that `batch` (counted from 0) is read from now on."""
        with self._changed:
            self._reached = batch
            self._changed.notify_all()

    def _ask(self) -> None:
        left = {
            (number, shard) for number, files in self._remote.items() for shard in range(len(files.manifest.shards))
        }
        for batch, samples in enumerate(self._batches):
            if not self._fits:
                with self._changed:
                    self._changed.wait_for(lambda batch=batch: self._stopping or batch <= self._reached + 1)
            for number, shard in self._needs(samples):
                if (number, shard) in left:
                    self._wanted.put((batch, self._remote[number], shard))
                    if self._fits:
                        left.remove((number, shard))
            if self._stopping or not left:
                return

    def _needs(self, samples: np.ndarray) -> Iterator[tuple[int, int]]:
        """(dataset, shard) of what a batch reads, in the order in which it is read, as far as there is room for it."""
        cache = next(iter(self._remote.values())).cache
        room = cache.limit // (2 * cache.readers)
        for number, shard in self._mixture.shards(samples):
            if number in self._remote:
                room -= self._remote[number].manifest.shards[shard].bytes
                if room < 0 and not self._fits:
                    return
                yield number, shard

    def _fetch(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            batch, files, shard = wanted
            if not self._fits and batch < self._reached:
                continue
            try:
                files.fetch(shard, self._tick)
            except DataError:
                continue
            except Stopped:
                return

    def _tick(self) -> None:
        if self._stopping:
            raise Stopped


def _remote(mixture: Mixture) -> Remote:
    files = enumerate(stream.files for stream in mixture.streams)
    return {number: one for number, one in files if isinstance(one, RemoteDataset)}


def _total(remote: Remote) -> int:
    return sum(files.total_bytes for files in remote.values())


def _fits(remote: Remote) -> bool:
    return all(_total(remote) <= files.cache.limit for files in remote.values())
