"""Check every byte of a dataset against its manifest."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import sha256_of
from data_pipeline.manifest import Manifest, ShardEntry
from data_pipeline.open_dataset import open_dataset
from data_pipeline.shard_index import ShardIndex, check_shard_file, walk_tar


def verify_dataset(folder: Path | str, progress: Callable[[ShardEntry], None] | None = None) -> list[str]:
    """Problems of the dataset at `folder` (or a URL), each naming its file; an empty list when every check passes.

    Checked: the checksums of tokenizer, tars and sidecars; the tar's headers against the sidecar; counts against the
    manifest; every token id against the vocabulary; the end-of-document token after each document and nowhere else.
    Raises `DataError` when there is no manifest to check against.
    """
    files = open_dataset(folder)
    folder, manifest = files.folder, files.manifest
    problems = _checksum(folder / manifest.tokenizer, manifest.tokenizer_sha256)
    for number, shard in enumerate(manifest.shards):
        try:
            with files.held(number):
                for problem in _verify_shard(folder, manifest, shard):
                    problems.append(problem)  # one by one: an error further on must not hide what was found before
        except DataError as error:
            problems.append(str(error))
        if progress is not None:
            progress(shard)
    return problems


def _verify_shard(folder: Path, manifest: Manifest, shard: ShardEntry) -> Iterator[str]:
    check_shard_file(folder, shard)
    path, index_path = folder / shard.file, folder / shard.index
    yield from _checksum(path, shard.sha256)
    yield from _checksum(index_path, shard.index_sha256)
    index, (offsets, sizes) = ShardIndex.load(index_path), walk_tar(path)
    if index.tar_sha256 != shard.sha256:
        yield f"{index_path}: the index of another tar than {shard.file}"
    if not (np.array_equal(offsets, index.offsets) and np.array_equal(sizes, index.sizes)):
        yield f"{index_path}: disagrees with the headers of {shard.file}"
    counts = (len(sizes), len(index.document_lengths), int(index.document_lengths.sum()))
    if counts == (shard.members, shard.documents, shard.tokens):
        yield from _verify_tokens(path, manifest, index, offsets, sizes)
    else:
        yield f"{path}: {counts} members, documents, tokens; not what the manifest says"


def _verify_tokens(
    path: Path, manifest: Manifest, index: ShardIndex, offsets: np.ndarray, sizes: np.ndarray
) -> list[str]:
    """Ids and document ends, a member at a time: memory does not grow with the shard."""
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    data = np.memmap(path, dtype=np.uint8, mode="r")
    document_ends = np.cumsum(index.document_lengths) - 1
    start = 0
    for number, (offset, size) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        tokens = data[offset : offset + size - size % dtype.itemsize].view(dtype)
        if tokens.size and tokens.max() >= manifest.vocab_size:
            return [f"{path}: member {number} holds token id {tokens.max()}, the vocabulary has {manifest.vocab_size}"]
        low, high = np.searchsorted(document_ends, [start, start + len(tokens)])
        if not np.array_equal(np.flatnonzero(tokens == manifest.eos_id) + start, document_ends[low:high]):
            return [f"{path}: member {number} does not end its documents where its index says"]
        start += len(tokens)
    return []


def _checksum(path: Path, expected: str) -> list[str]:
    try:
        found = sha256_of(path)
    except OSError as error:
        return [f"{path}: cannot be read ({error.strerror}); restore it or build the dataset again"]
    if found != expected:
        return [f"{path}: checksum {found[:12]} instead of {expected[:12]}; restore it or build the dataset again"]
    return []
