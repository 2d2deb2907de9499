"""What fetches ahead of the order: each shard in time, and within the cache."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from served import LENGTH, PATIENCE_S, SHARDS, bound, watched
from webserver import FOREVER, DataServer

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture
from data_pipeline.prefetch import Prefetch
from data_pipeline.shard_cache import Cache
from data_pipeline.stream import TokenStream


def batches_of(steps: int, size: int) -> list[np.ndarray]:
    return [np.arange(step * size, (step + 1) * size) for step in range(steps)]


def here(mixture: Mixture) -> set[int]:
    return {int(path.name[7:13]) for path in mixture.streams[0].folder.glob("tokens-*.tar")}


def test_prefetch_comes_first_and_once(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """Where all fits, every shard is fetched in the background, once, in the order of first need."""
    server.pace = 0.002
    mixture = Mixture([TokenStream(server.url, LENGTH, 3, Cache(tmp_path))], [{0: 1.0}])
    local = Mixture([TokenStream(folder, LENGTH, 3)], [{0: 1.0}])
    batches = batches_of(200, 2)
    order = list(dict.fromkeys(shard for batch in batches for _, shard in local.shards(batch)))
    with Prefetch(mixture, batches):
        deadline = time.monotonic() + PATIENCE_S
        while len(here(mixture)) < SHARDS and time.monotonic() < deadline:
            time.sleep(0.01)
    asked = [int(name[7:13]) for name in server.tars()]
    assert sorted(asked) == sorted(order) == list(range(SHARDS))
    assert all(abs(asked.index(shard) - order.index(shard)) < 4 for shard in order)  # four at once
    for batch in batches:
        np.testing.assert_array_equal(mixture.samples(batch), local.samples(batch))
    assert max(server.tars().values()) == 1


def test_prefetch_in_a_small_cache(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """It stays one batch ahead, and what it fetched is there when it is read."""
    cache = Cache(tmp_path / "cache", bound(folder, 8))
    mixture = Mixture([TokenStream(server.url, LENGTH, 3, cache)], [{0: 1.0}])
    local = Mixture([TokenStream(folder, LENGTH, 3)], [{0: 1.0}])
    batches = batches_of(40, 2)
    with watched(cache.folder) as seen, Prefetch(mixture, batches) as prefetch:
        for number, batch in enumerate(batches):
            before = sum(server.tars().values())
            np.testing.assert_array_equal(mixture.samples(batch), local.samples(batch))
            assert number == 0 or sum(server.tars().values()) == before
            prefetch.reached(number)
            coming = {shard for _, shard in local.shards(batches[number + 1])} if number + 1 < len(batches) else set()
            deadline = time.monotonic() + PATIENCE_S
            while not coming <= here(mixture):
                assert time.monotonic() < deadline
                time.sleep(0.001)
    assert max(seen) <= cache.limit


def test_prefetch_ends_with_its_block(server: DataServer, tmp_path: Path) -> None:
    server.pace = 0.05
    mixture = Mixture([TokenStream(server.url, LENGTH, 3, Cache(tmp_path))], [{0: 1.0}])
    with Prefetch(mixture, batches_of(200, 2)):
        time.sleep(0.1)
    deadline = time.monotonic() + PATIENCE_S
    while any(thread.name == "prefetch" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(server.tars()) <= 4
    assert not list(tmp_path.rglob("*.partial"))


def test_readers_tick_while_bytes_come(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """Both the one that fetches and the one that waits for it show progress; one that waits for nothing does not."""
    server.pace = 0.1
    ticks: list[int] = []
    streams = [
        TokenStream(server.url, LENGTH, 0, Cache(tmp_path, tick=lambda rank=rank: ticks.append(rank)))
        for rank in (0, 1)
    ]
    ticks.clear()
    threads = [threading.Thread(target=stream.window, args=(0,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.tars() == {"tokens-000000.tar": 1}
    assert ticks.count(0) > 0
    assert ticks.count(1) > 0
    ticks.clear()
    streams[0].window(0)
    assert ticks == []


def test_errors_of_the_prefetch_are_the_readers(server: DataServer, tmp_path: Path) -> None:
    server.harm["tokens-000004.tar"] = [404] * FOREVER
    mixture = Mixture([TokenStream(server.url, LENGTH, 3, Cache(tmp_path))], [{0: 1.0}])
    with (
        Prefetch(mixture, batches_of(750, 2)),
        pytest.raises(DataError, match=r"tokens-000004.tar: is not there \(404\)"),
    ):
        mixture.samples(np.arange(1500))
