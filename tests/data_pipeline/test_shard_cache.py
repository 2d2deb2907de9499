"""Processes share one cache: each shard is fetched once, the bound always holds, a killed fetcher leaves nothing."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numbered import numbered_dataset
from served import LENGTH, PATIENCE_S, SHARDS, all_bytes, bound, shard_bytes, small_bytes, watched
from webserver import DataServer, serving

from data_pipeline.errors import DataError
from data_pipeline.mixture import Mixture
from data_pipeline.open_dataset import RemoteDataset
from data_pipeline.prefetch import check_room
from data_pipeline.shard_cache import GIGABYTE, Cache
from data_pipeline.stream import TokenStream

READ = """
import sys
import numpy as np
from data_pipeline.shard_cache import Cache
from data_pipeline.stream import TokenStream
url, folder, gigabytes, seed, out = sys.argv[1:]
stream = TokenStream(url, 8, int(seed), Cache(folder, float(gigabytes)))
print("open", flush=True)
np.save(out, stream.samples(np.arange(stream.num_windows)))
"""


def reader(url: str, cache: Path, gigabytes: float, seed: int, out: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", READ, url, str(cache), repr(gigabytes), str(seed), str(out)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_two_processes_fetch_each_shard_once(folder: Path, server: DataServer, tmp_path: Path) -> None:
    server.pace = 0.002
    jobs = [reader(server.url, tmp_path / "cache", 1.0, 5, tmp_path / f"{rank}.npy") for rank in range(2)]
    said = [job.communicate(timeout=PATIENCE_S)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert server.requests.pop("manifest.json") == 2
    assert set(server.requests.values()) == {1}
    assert len(server.tars()) == SHARDS
    assert "fetching shard 1 of 12" in "".join(said)
    local = TokenStream(folder, LENGTH, 5)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), local.samples(np.arange(local.num_windows)))


def test_bound_holds_at_every_moment(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """Two processes in different orders, room for 3.5 of 12 shards: slow, and right."""
    cache, gigabytes = tmp_path / "cache", bound(folder, 3.5)
    cache.mkdir()
    with watched(cache) as seen:
        jobs = [reader(server.url, cache, gigabytes, seed, tmp_path / f"{seed}.npy") for seed in (1, 2)]
        said = [job.communicate(timeout=PATIENCE_S)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert len(seen) > 20
    assert gigabytes * GIGABYTE - 2 * shard_bytes(folder) < max(seen) <= gigabytes * GIGABYTE
    for seed in (1, 2):
        local = TokenStream(folder, LENGTH, seed)
        np.testing.assert_array_equal(np.load(tmp_path / f"{seed}.npy"), local.samples(np.arange(local.num_windows)))


def test_least_recently_used_goes_first(folder: Path, server: DataServer, tmp_path: Path) -> None:
    stream = TokenStream(server.url, LENGTH, 0, Cache(tmp_path, bound(folder, 3)))
    first_of = [int(start) // LENGTH + 1 for start in stream._shard_starts[:-1]]

    def read(*shards: int) -> list[int]:
        before = dict(server.tars())
        for shard in shards:
            stream.window(first_of[shard])
            time.sleep(0.01)  # a clock tick of the file system
        return sorted(int(name[7:13]) for name, count in server.tars().items() if count > before.get(name, 0))

    assert read(0, 1, 2, 0) == [0, 1, 2]
    assert read(3) == [3]  # 1 goes
    assert read(0, 2, 3) == []
    assert read(1) == [1]  # 0 goes
    assert read(2, 3) == []
    assert read(0) == [0]
    stream.files.prepare()
    assert server.requests["tokens-000000.index.npz"] == 1  # small files stay


def test_open_shard_stays(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """One that is read is not removed; another process waits for its room, or says so where it would wait for ever."""
    cache = Cache(tmp_path / "cache", bound(folder, 1.5))
    files = RemoteDataset(server.url, cache)
    files.prepare()
    tar = files.open_tar(0)
    done = threading.Event()
    waiting = threading.Thread(target=lambda: (files.open_tar(1).close(), done.set()))
    waiting.start()
    assert not done.wait(0.3)
    assert [path.name for path in cache.folder.rglob("*.tar")] == ["tokens-000000.tar"]
    tar.close()
    waiting.join(timeout=PATIENCE_S)
    assert done.is_set()
    assert [path.name for path in cache.folder.rglob("*.tar")] == ["tokens-000001.tar"]


def test_killed_fetcher(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """SIGKILL in the middle of a shard: nothing looks whole, the lock is free, and its bytes make room."""
    cache = tmp_path / "cache"
    server.pace = 5.0
    job = reader(server.url, cache, bound(folder, 1.5), 0, tmp_path / "none.npy")
    while not list(cache.rglob(".*.tar.partial")):
        assert job.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    job.kill()
    job.communicate()
    assert not list(cache.rglob("*[0-9].tar"))
    (left,) = cache.rglob("*.partial")
    assert left.stat().st_size == shard_bytes(folder)
    server.pace = 0.0
    stream = TokenStream(server.url, LENGTH, 0, Cache(cache, bound(folder, 1.5)))
    other = next(number for number, shard in enumerate(stream.manifest.shards) if shard.file not in left.name)
    stream.files.open_tar(other).close()
    assert not left.exists()
    local = TokenStream(folder, LENGTH, 0)
    np.testing.assert_array_equal(stream.windows(np.arange(200)), local.windows(np.arange(200)))


def test_old_datasets_make_room_whole(folder: Path, server: DataServer, tmp_path: Path) -> None:
    other = numbered_dataset(tmp_path / "other", 3000, first=7, shard_tokens=1000)
    cache = Cache(tmp_path / "cache", all_bytes(folder) / GIGABYTE)
    with serving(other) as old:
        stream = TokenStream(old.url, LENGTH, 0, cache)
        stream.windows(np.arange(stream.num_windows))
    stream = TokenStream(server.url, LENGTH, 0, cache)
    stream.windows(np.arange(stream.num_windows))
    assert set(server.requests.values()) == {1}
    assert [path.name for path in cache.folder.iterdir() if path.is_dir()] == [stream.folder.name]


def test_cache_that_is_too_small(folder: Path, server: DataServer, tmp_path: Path) -> None:
    one, every = shard_bytes(folder), all_bytes(folder)
    enough = f"{-(-every // 10**6) / 1000:g}"
    with pytest.raises(
        DataError, match=rf"data.cache_gb=.*: is less than {server.url}/tokens-.*, of {one:,} bytes; use"
    ):
        TokenStream(server.url, LENGTH, 0, Cache(tmp_path, (one - 1) / GIGABYTE))
    few = Mixture([TokenStream(server.url, LENGTH, 0, Cache(tmp_path, 5 * one / GIGABYTE, readers=3))], [{0: 1.0}])
    least = rf"3 process\(es\) .* of up to {one:,} bytes .* {6 * one:,} bytes together; use data.cache_gb={enough}"
    with pytest.raises(DataError, match=least):
        check_room(few)
    some = Mixture([TokenStream(server.url, LENGTH, 0, Cache(tmp_path, every / 2 / GIGABYTE))], [{0: 1.0}])
    (told,) = check_room(some)
    assert f"have {every:,} bytes" in told
    assert f"about 50% of what is read must be fetched again and again; data.cache_gb={enough} keeps all" in told
    whole = Mixture([TokenStream(server.url, LENGTH, 0, Cache(tmp_path, every / GIGABYTE))], [{0: 1.0}])
    assert check_room(whole) == check_room(Mixture([TokenStream(folder, LENGTH, 0)], [{0: 1.0}])) == []


def test_full_of_small_files(folder: Path, server: DataServer, tmp_path: Path) -> None:
    """Those of the dataset itself stay."""
    files = RemoteDataset(server.url, Cache(tmp_path, small_bytes(folder) / GIGABYTE))
    files.prepare()
    with pytest.raises(
        DataError, match=rf"data.cache_gb=.*: no room in {tmp_path} for {server.url}/tokens-000000.tar, of"
    ):
        files.open_tar(0)


def test_disk_that_takes_no_more(server: DataServer, tmp_path: Path) -> None:
    """Told from a server that fails: nothing is tried again. A limit on files stands for a full disk."""
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n" + READ
    arguments = [sys.executable, "-c", limited, server.url, str(tmp_path), "1.0", "0", str(tmp_path / "none.npy")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=PATIENCE_S)
    what = r"DataError: .*tokens-\d+\.tar\.partial: cannot be written \(File too large\); lower data\.cache_gb, or set"
    assert re.search(what, done.stderr), done.stderr
    assert not list(tmp_path.rglob("*tar*"))
    assert sum(server.tars().values()) == 0
