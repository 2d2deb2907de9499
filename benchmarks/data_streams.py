"""The same tokens read in four ways, for benchmarks/data.py: each gives batches of int64 [batch, length]."""

import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import count, islice
from pathlib import Path

import numpy as np

from armd_dist.orders.config import OrdersConfig
from armd_dist.orders.curriculum import Position, draw_orders
from data_pipeline.files import sha256_of
from data_pipeline.manifest import load_manifest
from data_pipeline.mixture import Mixture
from data_pipeline.shard_index import ShardIndex
from data_pipeline.stream import TokenStream

Read = Callable[[], np.ndarray]
SEED = 0
# Where most of training stands by default, and the scheme that draws most.
PHASES = {
    "the default curriculum's last rho": (OrdersConfig.model_validate({}), Position("progressive", 32, 5)),
    "any order": (OrdersConfig.model_validate({"mixture": {"any_order": 1}}), Position("mixture", 1, 1)),
}


def ours(folder: Path, length: int, batch: int, phase: str | None) -> Read:
    """The stream as training reads it, each batch's orders drawn as well where a phase is named."""
    data, numbers = open_data(folder, length), count(step=batch)

    def read() -> np.ndarray:
        return first_batch(data, next(numbers), batch, phase)

    return read


def open_data(folder: Path, length: int) -> Mixture:
    return Mixture([TokenStream(folder, length, SEED)], [{0: 1.0}])


def first_batch(data: Mixture, first: int, batch: int, phase: str | None) -> np.ndarray:
    """Samples `first` to `first + batch - 1` of training and their orders."""
    samples = np.arange(first, first + batch)
    tokens = data.samples(samples)
    if phase is not None:
        draw_orders(*PHASES[phase], tokens.shape[1], SEED, samples.tolist())
    return tokens


def memmap(file: Path, dtype: np.dtype, length: int, batch: int) -> Read:
    """Random windows of one flat file, cut as one usually does; nothing is shuffled, resumed or checked."""
    tokens, draw = np.memmap(file, dtype=dtype, mode="r"), np.random.default_rng(SEED)

    def read() -> np.ndarray:
        starts = draw.integers(len(tokens) - length + 1, size=batch)
        return np.stack([tokens[start : start + length].astype(np.int64) for start in starts])

    return read


def large_members(urls: list[str], dtype: np.dtype, length: int, batch: int) -> Read:
    """webdataset over our shards: members of about 1 MiB cut to windows, in stored order."""

    def windows() -> Iterator[np.ndarray]:
        for sample in _endless(urls):
            tokens = np.frombuffer(sample["bin"], dtype=dtype)
            yield from tokens[: len(tokens) // length * length].reshape(-1, length)

    return _batches(windows(), batch)


def small_members(urls: list[str], dtype: np.dtype, batch: int, shuffled: int = 0) -> Read:
    """webdataset over tars of one sequence a member, in stored order or through a buffer of `shuffled` samples."""
    return _batches((np.frombuffer(sample["bin"], dtype=dtype) for sample in _endless(urls, shuffled)), batch)


def _batches(windows: Iterator[np.ndarray], batch: int) -> Read:
    return lambda: np.stack(list(islice(windows, batch))).astype(np.int64)


def _endless(urls: list[str], shuffled: int = 0) -> Iterator[dict[str, bytes]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset's own import
        import webdataset
    while True:
        samples = webdataset.WebDataset(urls, shardshuffle=False)  # pyright: ignore[reportAttributeAccessIssue]
        yield from samples.shuffle(shuffled) if shuffled else samples


def write_flat(folder: Path, file: Path) -> None:
    """All tokens of a dataset as one file."""
    manifest = load_manifest(folder)
    stream = TokenStream(folder, 1, SEED)
    with file.open("wb") as out:
        for start in range(0, manifest.tokens, 1 << 20):
            stream.tokens(start, min(start + (1 << 20), manifest.tokens)).astype(manifest.dtype).tofile(out)


def write_small_members(file: Path, flat: np.ndarray, length: int) -> None:
    """A tar with a member for each sequence of `flat`."""
    with tarfile.open(file, "w") as tar:
        for number in range(len(flat) // length):
            data = flat[number * length : (number + 1) * length].tobytes()
            header = tarfile.TarInfo(f"{number:09d}.bin")
            header.size = len(data)
            tar.addfile(header, BytesIO(data))


def write_synthetic(like: Path, folder: Path, shards: int, shard_tokens: int) -> None:
    """A dataset of sparse files: as many tokens as a large corpus has, all zero, on hardly any disk."""
    manifest = load_manifest(like)
    width = np.dtype(manifest.dtype).itemsize
    folder.mkdir()
    (folder / manifest.tokenizer).write_bytes((like / manifest.tokenizer).read_bytes())
    members = np.full(shard_tokens * width >> 20, 1 << 20)
    offsets = 512 + np.arange(len(members)) * (512 + (1 << 20))
    entries = []
    for number in range(shards):
        entry = replace(
            manifest.shards[0],
            file=f"tokens-{number:06d}.tar",
            index=f"tokens-{number:06d}.index.npz",
            bytes=int(offsets[-1] + members[-1]),
            members=len(members),
            documents=1,
            tokens=shard_tokens,
        )
        with (folder / entry.file).open("wb") as file:
            file.truncate(entry.bytes)
        ShardIndex(offsets, members, np.array([shard_tokens]), entry.sha256).save(folder / entry.index)
        entries.append(replace(entry, index_sha256=sha256_of(folder / entry.index)))
    tokens = shards * shard_tokens
    replace(manifest, documents=shards, tokens=tokens, sources=(), shards=tuple(entries)).save(folder)
