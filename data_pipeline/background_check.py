"""Checksums while training: a thread reads each shard once, so that a flipped byte does not go unseen for long."""

import hashlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.remote import is_remote
from data_pipeline.stream import TokenStream

PIECE_BYTES = 1 << 22
REST = 3.0  # times as long as a piece took: the thread takes a quarter of a core, and of the storage, at most


class BackgroundCheck:
    """Compares the streams' shards with the checksums of their manifests, in a thread that ends with the process."""

    def __init__(self, streams: Sequence[TokenStream]) -> None:
        # What came from a URL was checked on its way, and may leave the cache at any time.
        local = [stream for stream in streams if not is_remote(stream.path)]
        shards = [(stream.folder / shard.file, shard.sha256) for stream in local for shard in stream.manifest.shards]
        self._problem: str | None = None
        self._thread = threading.Thread(target=self._check, args=(shards,), daemon=True)
        self._thread.start()

    def raise_if_damaged(self) -> None:
        """`DataError` that names a shard once its bytes were found to be others than those that were built."""
        if self._problem is not None:
            raise DataError(self._problem)

    def join(self) -> None:
        """Wait until all shards are checked."""
        self._thread.join()

    def _check(self, shards: list[tuple[Path, str]]) -> None:
        for path, expected in shards:
            try:
                found = _digest(path)
            except OSError as error:
                self._problem = f"{path}: cannot be read any more ({error.strerror}); restore it, and train on"
                return
            if found != expected:
                self._problem = (
                    f"{path}: checksum {found[:12]} instead of {expected[:12]}: its bytes have changed since it was "
                    "built, and training has read them; restore it or build the dataset again, then continue from a "
                    "checkpoint of before the change"
                )
                return


def _digest(path: Path) -> str:
    """Hexadecimal SHA-256, with a rest after each piece."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while True:
            began = time.monotonic()
            piece = file.read(PIECE_BYTES)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
            time.sleep(REST * (time.monotonic() - began))
