"""A dataset that a server on this machine serves, for the tests of the cache and of what fetches ahead."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.shard_cache import GIGABYTE

LENGTH, TOKENS, SHARDS = 8, 12_000, 12
PATIENCE_S = 200  # for a machine that has much else to do


def shard_bytes(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.glob("*.tar"))


def small_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".npz", ".model"))


def all_bytes(folder: Path) -> int:
    return small_bytes(folder) + sum(path.stat().st_size for path in folder.glob("*.tar"))


def bound(folder: Path, shards: float) -> float:
    """Gigabytes for so many shards beside the small files."""
    return (small_bytes(folder) + shards * shard_bytes(folder)) / GIGABYTE


def files_in(folder: Path) -> dict[int, int]:
    """Bytes by inode: one that is renamed meanwhile counts once."""
    found = {}
    for path in folder.rglob("*"):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found[stat.st_ino] = stat.st_size * path.is_file()
    return found


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The bytes in a folder, looked at again and again while the block runs."""
    seen, stop = [0], threading.Event()

    def look() -> None:
        while not stop.is_set():
            one, other = files_in(folder), files_in(folder)
            if one == other:  # nothing came or went while they were counted
                seen.append(sum(one.values()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
