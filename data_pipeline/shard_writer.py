"""Tokens to tars of large members with their sidecars; the same documents give the same bytes."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import sha256_of
from data_pipeline.manifest import ShardEntry
from data_pipeline.shard_index import TOKENS_FIELD, ShardIndex, walk_tar

MEMBER_BYTES = 1 << 20  # many documents a member: one each costs most of a tar in headers and padding


class ShardWriter:
    """Packs whole documents into members of about 1 MiB, and members into tars of about `shard_tokens` tokens.

    `tokens-000000.tar` holds `000000-000000.bin`, `000000-000001.bin`, ...: raw little-endian ids. Documents are told
    apart by the end-of-document token that closes each, and by the lengths in `tokens-000000.index.npz`.
    """

    def __init__(self, folder: Path, shard_tokens: int) -> None:
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._tar: Any = None
        self._entries: list[ShardEntry] = []
        self._member: list[np.ndarray] = []
        self._member_bytes = 0
        self._members = 0  # written to the open tar
        self._lengths: list[int] = []  # of the open tar's documents, those waiting in the member too
        self._tokens = 0

    def add(self, document: np.ndarray) -> None:
        """Append one document, uint16 or uint32 [tokens], its end-of-document token included."""
        self._member.append(document)
        self._member_bytes += document.nbytes
        self._lengths.append(len(document))
        self._tokens += len(document)
        full = self._tokens >= self._shard_tokens
        if full or self._member_bytes >= MEMBER_BYTES:
            self._write_member()
        if full:
            self._close_shard()

    def finish(self) -> tuple[ShardEntry, ...]:
        """Close the last shard and return the manifest's entry of every shard."""
        if self._member:
            self._write_member()
        if self._tar is not None:
            self._close_shard()
        return tuple(self._entries)

    @property
    def _path(self) -> Path:
        return self._folder / f"tokens-{len(self._entries):06d}.tar"

    def _write_member(self) -> None:
        if self._tar is None:
            self._tar = _open_tar(self._path)
        key = f"{len(self._entries):06d}-{self._members:06d}"
        self._tar.write({"__key__": key, TOKENS_FIELD: np.concatenate(self._member).tobytes()})
        self._member, self._member_bytes = [], 0
        self._members += 1

    def _close_shard(self) -> None:
        self._tar.close()
        path, index_path = self._path, self._path.with_suffix(".index.npz")
        offsets, sizes = walk_tar(path)
        digest = sha256_of(path)
        ShardIndex(offsets, sizes, np.array(self._lengths, dtype=np.int64), digest).save(index_path)
        entry = ShardEntry(
            file=path.name,
            bytes=path.stat().st_size,
            sha256=digest,
            index=index_path.name,
            index_sha256=sha256_of(index_path),
            members=self._members,
            documents=len(self._lengths),
            tokens=self._tokens,
        )
        self._entries.append(entry)
        self._tar, self._lengths, self._members, self._tokens = None, [], 0, 0


def _open_tar(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset's own import
        from webdataset.writer import TarWriter  # loads torch: seconds that only a build should pay

    # Nothing of the machine, user or hour goes into the headers: equal tokens are equal bytes.
    # A whole number for the time: a fraction would cost each member a kilobyte of extended header.
    return TarWriter(str(path), user="", group="", mtime=0, encoder=False)
