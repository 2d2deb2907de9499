"""The manifest of a dataset folder: what it holds, made by which tokenizer. Without it the dataset does not exist."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.remote import is_remote
from data_pipeline.tokenizer import Tokenizer

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.model"  # a copy beside the shards: the folder is complete in itself
DTYPES = ("uint16", "uint32")


@dataclass(frozen=True)
class ShardEntry:
    """One tar of tokens and its sidecar index, both in the manifest's folder."""

    file: str
    bytes: int
    sha256: str
    index: str
    index_sha256: str
    members: int
    documents: int
    tokens: int


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. Tokens count the end-of-document token of each document; `dtype` is little-endian."""

    format_version: int
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int
    eos_id: int
    dtype: str
    documents: int
    tokens: int
    sources: tuple[str, ...]
    build: dict[str, Any]
    shards: tuple[ShardEntry, ...]

    def hash(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON: two datasets with one hash hold the same tokens."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `folder/manifest.json` in one step; the last thing that a build does to a folder."""
        write_atomically(folder / MANIFEST_FILE, json.dumps(asdict(self), indent=2).encode() + b"\n")


def token_dtype(vocab_size: int) -> str:
    """The narrowest dtype that holds every id of the vocabulary."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def load_manifest(folder: Path | str) -> Manifest:
    """Read the manifest of a dataset folder.

    Raises `DataError` when the folder is missing, empty, a build that never finished, a folder of splits, damaged, or
    of a format version that this code does not read.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_why_no_manifest(Path(folder))) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}); build the dataset again with `armd data build`") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path | str) -> Manifest:
    """A manifest from its file's bytes; `path` is for messages. `DataError` when it is damaged or of another format."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: cannot be read ({error}); build the dataset again with `armd data build`") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {version}, and this code reads version {FORMAT_VERSION}; "
            "build the dataset again, or use the release of armd-dist that made it"
        )
    return _parse(data, path)


def check_tokenizer(manifest: Manifest, tokenizer: Tokenizer, folder: Path | str) -> None:
    """Raise `DataError` unless `tokenizer` is the one whose ids the dataset in `folder` holds."""
    if manifest.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"{folder}: made by another tokenizer (sha256 {manifest.tokenizer_sha256[:12]}, {manifest.vocab_size} ids) "
            f"than {tokenizer.path} (sha256 {tokenizer.sha256[:12]}, {tokenizer.vocab_size} ids); "
            f"use {folder}/{manifest.tokenizer}, or build the dataset again"
        )


def dataset_folders(folder: Path | str) -> Mapping[str, Path | str]:
    """The datasets at `folder`: itself, or the splits that one build wrote, as {name: folder}. `DataError` if none.

    A URL is always one dataset: what lies below it cannot be listed everywhere.
    """
    if is_remote(folder):
        return {str(folder).rstrip("/").rpartition("/")[2]: folder}
    folder = Path(folder)
    if (folder / MANIFEST_FILE).exists():
        return {folder.name: folder}
    splits = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{MANIFEST_FILE}"))}
    if not splits:
        raise DataError(_why_no_manifest(folder))
    return splits


def _parse(data: dict[str, Any], path: Path | str) -> Manifest:
    try:
        shards = tuple(ShardEntry(**entry) for entry in data["shards"])
        manifest = Manifest(**{**data, "sources": tuple(data["sources"]), "shards": shards})
        consistent = (
            manifest.dtype in DTYPES
            and manifest.tokens == sum(shard.tokens for shard in shards)
            and manifest.documents == sum(shard.documents for shard in shards)
        )
    except (KeyError, TypeError):
        consistent, manifest = False, None
    if manifest is None or not consistent:
        raise DataError(f"{path}: is damaged: keys are missing or counts disagree; build the dataset again")
    return manifest


def _why_no_manifest(folder: Path) -> str:
    remedy = "build one with `armd data build`"
    if not folder.exists():
        return f"{folder}: no such data folder; {remedy}"
    if not folder.is_dir():
        return f"{folder}: is a file, not a data folder; name the folder that holds {MANIFEST_FILE}"
    if splits := sorted(path.parent for path in folder.glob(f"*/{MANIFEST_FILE}")):
        return f"{folder}: holds several datasets; name one of them: {', '.join(map(str, splits))}"
    if not any(folder.iterdir()):
        return f"{folder}: the data folder is empty; {remedy}"
    return f"{folder}: has no {MANIFEST_FILE}, so it is no dataset or its build was interrupted; {remedy}"
