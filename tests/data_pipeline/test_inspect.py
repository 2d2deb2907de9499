"""What inspect shows is true, and a huge dataset takes no more memory than a small one."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.inspect_dataset import inspect_dataset
from data_pipeline.manifest import load_manifest
from data_pipeline.shard_index import ShardIndex
from data_pipeline.tokenizer import Tokenizer


def test_counts_quantiles_and_samples(dataset: Path, tokenizer: Tokenizer, texts: list[str]) -> None:
    found = inspect_dataset(dataset / "train", samples=7)
    manifest = load_manifest(dataset / "train")
    assert len(manifest.shards) > 2
    lengths = np.concatenate(
        [ShardIndex.load(dataset / "train" / shard.index).document_lengths for shard in manifest.shards]
    )
    assert found.quantiles == tuple(np.quantile(lengths, [0, 0.1, 0.5, 0.9, 1], method="nearest").tolist())
    assert sum(count for _, count in found.histogram) == manifest.documents
    for shortest, count in found.histogram:
        assert count == ((lengths >= shortest) & (lengths < 2 * shortest)).sum()
    numbers = [number for number, _ in found.samples]
    assert numbers == sorted(set(numbers))
    train = [text for text in texts if any(text.startswith(start) for _, start in found.samples)]
    assert len(train) >= 7
    for number, text in found.samples:
        whole = next(one for one in texts if one.startswith(text))
        assert len(tokenizer.encode(whole)) + 1 == lengths[number]


def synthetic(like: Path, folder: Path, shards: int, documents: int) -> Path:
    """Shards of documents of 1 to 999 tokens, their tars sparse files."""
    folder.mkdir()
    manifest = load_manifest(like)
    (folder / manifest.tokenizer).write_bytes((like / manifest.tokenizer).read_bytes())
    entries = []
    for number in range(shards):
        lengths = np.random.default_rng(number).integers(1, 1000, size=documents)
        tokens = int(lengths.sum())
        names = {"file": f"{number}.tar", "index": f"{number}.npz", "bytes": 512 + 2 * tokens}
        entry = replace(manifest.shards[0], **names, members=1, documents=documents, tokens=tokens)
        ShardIndex(np.array([512]), np.array([2 * tokens]), lengths, entry.sha256).save(folder / entry.index)
        with (folder / entry.file).open("wb") as file:
            file.truncate(entry.bytes)
        entries.append(entry)
    tokens = sum(entry.tokens for entry in entries)
    replace(manifest, documents=shards * documents, tokens=tokens, shards=tuple(entries)).save(folder)
    return folder


def peak(folder: Path) -> int:
    tracemalloc.start()
    try:
        assert inspect_dataset(folder).manifest.documents
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_dataset(dataset: Path, tmp_path: Path) -> None:
    few = synthetic(dataset / "train", tmp_path / "few", 2, 50_000)
    many = synthetic(dataset / "train", tmp_path / "many", 40, 50_000)
    peak(few)  # what is loaded once
    assert peak(many) < 1.1 * peak(few) + 100_000


def test_what_cannot_be_inspected(dataset: Path, tmp_path: Path) -> None:
    folder = synthetic(dataset / "train", tmp_path / "data", 2, 10)
    index = ShardIndex.load(folder / "1.npz")
    ShardIndex(index.offsets, index.sizes, index.document_lengths[1:], index.tar_sha256).save(folder / "1.npz")
    with pytest.raises(DataError, match=r"1\.npz: the index of another tar than 1\.tar"):
        inspect_dataset(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "documents": 0, "tokens": 0, "shards": []}))
    with pytest.raises(DataError, match="data: holds no document"):
        inspect_dataset(folder)
