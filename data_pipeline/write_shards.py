"""Build a dataset: text to `OUT/train` and `OUT/held_out`, visible only once it is whole."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.encode_documents import encode_documents
from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.manifest import FORMAT_VERSION, TOKENIZER_FILE, Manifest, load_manifest, token_dtype
from data_pipeline.read_text import ErrorMode, documents, find_files, fingerprint
from data_pipeline.shard_index import check_shard_file
from data_pipeline.shard_writer import ShardWriter
from data_pipeline.tokenizer import Tokenizer

TRAIN, HELD_OUT = "train", "held_out"
BUILD_FILE = "build.json"  # what the folder was built from: tells a rerun from a clash
SHARD_TOKENS = 1 << 26  # 128 MiB of uint16


@dataclass(frozen=True)
class Progress:
    """So far: documents and tokens written, UTF-8 bytes read."""

    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class BuildSummary:
    """The dataset in `folder`: the manifest of each split, documents skipped for lack of text, and whether it was
    there already."""

    folder: Path
    splits: dict[str, Manifest]
    empty_documents: int
    reused: bool


def build_dataset(
    inputs: list[str],
    tokenizer_path: Path | str,
    out: Path | str,
    *,
    workers: int = 1,
    held_out: float = 0.0,
    errors: ErrorMode = "strict",
    shard_tokens: int = SHARD_TOKENS,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> BuildSummary:
    """Tokenise `inputs` (as in `read_text.documents`) into `out/train` and, with `held_out` > 0, `out/held_out`.

    Each is a dataset folder of its own: tars, sidecars, `tokenizer.model`, `manifest.json`. A document is held out when
    the hash of its text and `seed` falls in the lowest `held_out` (in [0, 1)) of all hashes. `workers` processes
    tokenise; the bytes written do not depend on their number.

    `out` appears by one rename at the end. An `out` that was built from the same inputs and parameters is returned as
    it is; any other existing one raises `DataError`, as do bad text, a bad tokenizer, a split that got no document,
    and a disk that is full.
    """
    out, tokenizer = Path(out), Tokenizer.load(tokenizer_path)
    if workers < 1 or shard_tokens < 1 or not 0 <= held_out < 1:
        raise DataError("use workers >= 1, shard tokens >= 1 and a held-out fraction in [0, 1)")
    parameters = {"held_out": held_out, "errors": errors, "shard_tokens": shard_tokens, "seed": seed}
    recipe = {
        "format_version": FORMAT_VERSION,
        "tokenizer_sha256": tokenizer.sha256,
        **parameters,
        "inputs": fingerprint(inputs),
    }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        return _reuse(out, recipe)
    dtype = token_dtype(tokenizer.vocab_size)
    chunks = encode_documents(
        documents(inputs, errors), tokenizer.path, dtype, workers=workers, held_out=held_out, seed=seed
    )
    try:
        with _building(out) as partial:
            names = (TRAIN, HELD_OUT) if held_out > 0 else (TRAIN,)
            writers = {name: _start_split(partial / name, tokenizer, shard_tokens) for name in names}
            empty = _write(chunks, writers, progress)
            for name, writer in writers.items():
                _finish_split(partial / name, writer, tokenizer, dtype, tuple(find_files(inputs)), parameters)
            write_atomically(partial / BUILD_FILE, _json({**recipe, "empty_documents": empty}))
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); free space or choose another --out") from error
    return BuildSummary(out, {name: load_manifest(out / name) for name in names}, empty, reused=False)


def _write(chunks: Iterator[Any], writers: dict[str, ShardWriter], progress: Callable[[Progress], None] | None) -> int:
    """Hand each document to its split, in order; return the number of documents without text."""
    written = tokens = size = empty = 0
    for chunk in chunks:
        ends = np.cumsum(chunk.lengths)
        for start, end, held_out in zip(ends - chunk.lengths, ends, chunk.held_out, strict=True):
            writers[HELD_OUT if held_out else TRAIN].add(chunk.tokens[start:end])
        written, tokens = written + len(ends), tokens + len(chunk.tokens)
        size, empty = size + chunk.bytes, empty + chunk.empty
        if progress is not None:
            progress(Progress(written, tokens, size))
    return empty


def _start_split(folder: Path, tokenizer: Tokenizer, shard_tokens: int) -> ShardWriter:
    folder.mkdir()
    shutil.copyfile(tokenizer.path, folder / TOKENIZER_FILE)
    return ShardWriter(folder, shard_tokens)


def _finish_split(
    folder: Path,
    writer: ShardWriter,
    tokenizer: Tokenizer,
    dtype: str,
    sources: tuple[str, ...],
    parameters: dict[str, Any],
) -> None:
    shards = writer.finish()
    if not shards:
        remedy = "raise --held-out or give more documents" if folder.name == HELD_OUT else "check the --input files"
        raise DataError(f"no document with text went to the split {folder.name}; {remedy}")
    Manifest(
        format_version=FORMAT_VERSION,
        tokenizer=TOKENIZER_FILE,
        tokenizer_sha256=tokenizer.sha256,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        dtype=dtype,
        documents=sum(shard.documents for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        sources=sources,
        build={"split": folder.name, **parameters},
        shards=shards,
    ).save(folder)


@contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A hidden sibling to build in: renamed to `out` on success, removed on failure, emptied after a crash."""
    partial = out.parent / f".{out.name}.building"
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)  # a lock dies with its process, where a lock file would stay behind
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{out}: another process is building it; wait for it or choose another --out") from None
        try:
            for leftover in partial.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield partial
            partial.rename(out)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    finally:
        os.close(lock)


def _reuse(out: Path, recipe: dict[str, Any]) -> BuildSummary:
    """The dataset already at `out` when it follows the same recipe, its files present; else `DataError`."""
    try:
        found = json.loads((out / BUILD_FILE).read_text())
        empty = found.pop("empty_documents")
    except (OSError, ValueError, KeyError, AttributeError):
        raise DataError(f"{out}: exists and is no dataset built here; choose another --out") from None
    wanted = json.loads(_json(recipe))
    if different := [name for name in wanted if found.get(name) != wanted[name]]:
        raise DataError(
            f"{out}: holds a dataset built with other {', '.join(different)}; choose another --out, or remove this one"
        )
    names = (TRAIN, HELD_OUT) if recipe["held_out"] > 0 else (TRAIN,)
    splits = {name: load_manifest(out / name) for name in names}
    for name, manifest in splits.items():
        for shard in manifest.shards:
            check_shard_file(out / name, shard)
    return BuildSummary(out, splits, empty, reused=True)


def _json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, indent=2).encode() + b"\n"
