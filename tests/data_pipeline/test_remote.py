"""A dataset at a URL is the dataset in its folder; a server that fails is asked again, and named in the end."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from numbered import numbered_dataset
from typer.testing import CliRunner
from webserver import FOREVER, DataServer, serving

from armd_dist.cli.main import app
from data_pipeline import remote
from data_pipeline.errors import DataError
from data_pipeline.inspect_dataset import inspect_dataset
from data_pipeline.manifest import load_manifest
from data_pipeline.mixture import Mixture
from data_pipeline.remote import TRIES
from data_pipeline.shard_cache import Cache
from data_pipeline.stream import TokenStream
from data_pipeline.verify import verify_dataset

LENGTH = 7
TAR = "tokens-000001.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return numbered_dataset(tmp_path / "data", 2000)


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DataServer]:
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    with serving(folder) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def read_all(url: str, cache: Cache | None = None) -> np.ndarray:
    stream = TokenStream(url, LENGTH, seed=3, cache=cache)
    return stream.samples(np.arange(2 * stream.num_windows))


def files_of(cache: Cache) -> set[str]:
    return {path.name for path in cache.folder.rglob("*") if path.is_file() and path.stat().st_size}


def test_url_and_folder_give_the_same_tokens(folder: Path, server: DataServer, cache: Cache) -> None:
    np.testing.assert_array_equal(read_all(server.url, cache), read_all(str(folder)))
    every = {path.name for path in folder.iterdir()}
    assert len(server.tars()) > 4
    assert server.requests == dict.fromkeys(every, 1)
    np.testing.assert_array_equal(read_all(server.url + "/", cache), read_all(str(folder)))
    assert server.requests == {name: 2 if name == "manifest.json" else 1 for name in every}
    stream, local = TokenStream(server.url, LENGTH, 3, cache), TokenStream(folder, LENGTH, 3)
    np.testing.assert_array_equal(stream.tokens(290, 1210), local.tokens(290, 1210))
    assert stream.manifest == local.manifest


def test_tars_come_when_they_are_read(server: DataServer, cache: Cache) -> None:
    stream = TokenStream(server.url, LENGTH, 3, cache)
    assert not server.tars()
    assert server.requests["tokens-000000.index.npz"] == 1
    stream.window(300 // LENGTH)
    assert server.tars() == {"tokens-000000.tar": 1, TAR: 1}


def test_other_protocols(folder: Path, cache: Cache) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/train", recursive=True)
    for url in ("memory://bucket/train", f"file://{folder}"):
        np.testing.assert_array_equal(read_all(url, cache), read_all(str(folder)))
    shutil.rmtree(cache.folder)
    memory.rm(f"/bucket/train/{TAR}")
    with pytest.raises(DataError, match=rf"memory://bucket/train/{TAR}: is not there; name the folder of one dataset"):
        read_all("memory://bucket/train", cache)


@pytest.mark.parametrize("harm", [500, 503, 429, "half", "short", "flip", "more"])
@pytest.mark.parametrize("name", [TAR, "tokens-000001.index.npz", "manifest.json"])
def test_what_may_pass_is_tried_again(
    name: str, harm: int | str, server: DataServer, cache: Cache, folder: Path
) -> None:
    if name == "manifest.json" and harm in ("short", "flip", "more"):
        return  # nobody says what it should be
    server.harm[name] = [harm] * (TRIES - 1)
    np.testing.assert_array_equal(read_all(server.url, cache), read_all(str(folder)))
    assert server.requests[name] == TRIES


BAD = {
    500: r"the server answered 500 Internal Server Error, 6 times; try again later: the same command goes on",
    "half": r"[\d,]+ of [\d,]+ bytes came and the connection broke \(ClientPayloadError\), 6 times; the copy there is",
    "short": r"[\d,]+ of [\d,]+ bytes came, 6 times; the copy there is damaged or the connection cut; try again, or",
    "flip": r"came with checksum [0-9a-f]{12} instead of [0-9a-f]{12}, 6 times; the copy there is damaged",
    "more": r"more than the [\d,]+ bytes came that the manifest says, 6 times",
    404: r"is not there \(404\); name the folder of one dataset, such as \.\.\./train, or upload all of it",
    403: r"may not be read \(403\); check the credentials, and the permissions there",
    410: r"the server answered 410 Gone; correct the URL",
}


@pytest.mark.parametrize("harm", BAD)
def test_what_does_not_pass_is_named(harm: int | str, server: DataServer, cache: Cache) -> None:
    server.harm[TAR] = [harm] * FOREVER
    with pytest.raises(DataError, match=f"^{server.url}/{TAR}: {BAD[harm]}"):
        read_all(server.url, cache)
    assert server.requests[TAR] == (1 if harm in (404, 403, 410) else TRIES)
    assert not any(TAR in name for name in files_of(cache))
    server.harm.clear()
    read_all(server.url, cache)


def test_server_that_falls_silent(
    folder: Path, server: DataServer, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 0.1)
    server.harm[TAR] = ["silent"]
    np.testing.assert_array_equal(read_all(server.url, cache), read_all(str(folder)))
    assert server.requests[TAR] == 2
    shutil.rmtree(cache.folder)
    server.harm[TAR] = ["silent"] * FOREVER
    with pytest.raises(
        DataError, match=rf"{TAR}: [\d,]+ of [\d,]+ bytes came and the connection broke \(.*Timeout.*6 times"
    ):
        read_all(server.url, cache)


def test_pauses_grow(server: DataServer, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote, "_pause", lambda seconds, tick: pauses.append(seconds))
    server.harm[TAR] = [500] * FOREVER
    with pytest.raises(DataError):
        read_all(server.url, cache)
    scaled = np.array(pauses) / (remote.FIRST_PAUSE_S * 2.0 ** np.arange(TRIES - 1))
    assert ((scaled >= 0.5) & (scaled <= 1.5)).all()
    assert len(set(scaled)) == TRIES - 1


def test_addresses_that_lead_nowhere(server: DataServer, cache: Cache) -> None:
    with pytest.raises(DataError, match=rf"{server.url}/none/manifest.json: is not there \(404\); name the folder of"):
        TokenStream(f"{server.url}/none", LENGTH, 0, cache)
    with pytest.raises(
        DataError, match=r"127.0.0.1:1/manifest.json: cannot be reached \(ClientConnector.*6 times; check"
    ):
        TokenStream("http://127.0.0.1:1", LENGTH, 0, cache)
    with pytest.raises(DataError, match=r"nosuch://x/manifest.json: fsspec does not know nosuch://; use https://"):
        TokenStream("nosuch://x", LENGTH, 0, cache)


def test_protocol_without_its_package(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(
        DataError, match=r"s3://bucket/train/manifest.json: .* missing \(Install s3fs.*\); pip install s3fs"
    ):
        TokenStream("s3://bucket/train", LENGTH, 0, cache)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(DataError, match=r"train/manifest.json: .*aiohttp.*; pip install 'fsspec\[http\]'"):
        TokenStream("https://host/train", LENGTH, 0, cache)


def test_manifests_that_are_none(folder: Path, server: DataServer, cache: Cache) -> None:
    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    path.write_text("<html>")
    with pytest.raises(DataError, match=rf"{server.url}/manifest.json: cannot be read"):
        TokenStream(server.url, LENGTH, 0, cache)
    whole["shards"][0]["file"] = "../../tokens.tar"
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"manifest.json: names files outside of its folder"):
        TokenStream(server.url, LENGTH, 0, cache)


def test_other_data_at_the_same_url(folder: Path, server: DataServer, cache: Cache) -> None:
    before = read_all(server.url, cache)
    shutil.rmtree(folder)
    numbered_dataset(folder, 2000, first=5)
    np.testing.assert_array_equal(read_all(server.url, cache), before + 5)


def test_file_cut_short_in_the_cache_is_fetched_again(folder: Path, server: DataServer, cache: Cache) -> None:
    read_all(server.url, cache)
    (tar,) = cache.folder.rglob(TAR)
    tar.write_bytes(tar.read_bytes()[:-512])
    np.testing.assert_array_equal(read_all(server.url, cache), read_all(str(folder)))
    assert server.requests[TAR] == 2


def test_cache_that_cannot_be_made(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"file/.*: cannot be made to keep remote data .*; set data.cache_dir to a folder"
    ):
        TokenStream(server.url, LENGTH, 0, Cache(tmp_path / "file"))


def test_mixture_of_a_url_and_a_folder(folder: Path, server: DataServer, cache: Cache, tmp_path: Path) -> None:
    other = numbered_dataset(tmp_path / "other", 500, first=10_000)
    weights = [{0: 2.0}, {0: 1.0}]
    mixed = Mixture([TokenStream(server.url, LENGTH, 1, cache), TokenStream(other, LENGTH, 1)], weights)
    local = Mixture([TokenStream(folder, LENGTH, 1), TokenStream(other, LENGTH, 1)], weights)
    np.testing.assert_array_equal(mixed.samples(np.arange(99)), local.samples(np.arange(99)))
    assert [one.path for one in mixed.consumed(9)] == [server.url, str(other)]
    assert mixed.manifest.hash() == local.manifest.hash()


def test_commands_take_urls(dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`verify` finds at a URL what it finds in the folder; `inspect` shows the same."""
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serving(dataset) as server:
        url = f"{server.url}/train"
        done = CliRunner().invoke(app, ["data", "verify", url])
        shards = load_manifest(dataset / "train").shards
        assert done.output.splitlines()[-1] == f"{url}: {len(shards)} shard(s) verified, no problem found"
        shown = [CliRunner().invoke(app, ["data", "inspect", str(path)]).output for path in (url, dataset / "train")]
        assert shown[0].splitlines()[1:] == shown[1].splitlines()[1:]
        assert inspect_dataset(url).samples == inspect_dataset(dataset / "train").samples
        assert max(server.tars().values()) == 1
        shutil.rmtree(tmp_path / "armd-dist")
        server.harm[f"train/{shards[1].file}"] = ["flip"] * FOREVER
        (problem,) = verify_dataset(url)
        assert f"{url}/{shards[1].file}: came with checksum" in problem
