"""Tokens to tars of large members with their sidecars; the same documents give the same bytes."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.files import flush_to_disk, sha256_of
from data_pipeline.manifest import ShardEntry
from data_pipeline.shard_index import TOKENS_FIELD, ShardIndex, walk_tar

MEMBER_BYTES = 1 << 20  # many documents a member: one each costs most of a tar in headers and padding


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is whole on disk, and where its split goes on behind it.

    `next_number`: documents of the split below this place in the inputs are in this shard or an earlier one. `blank`:
    documents of the split up to there whose text gave no token.
    """

    entry: ShardEntry
    next_number: int
    blank: int


class ShardWriter:
    """Packs whole documents into members of about 1 MiB, and members into tars of about `shard_tokens` tokens.

    `tokens-000000.tar` holds `000000-000000.bin`, `000000-000001.bin`, ...: raw little-endian ids. Documents are told
    apart by the end-of-document token that closes each, and by the lengths in `tokens-000000.index.npz`. `prefix`
    stands before the number in both names, so that the shards of several builds can lie together and be read in a row.

    A tar has a hidden name until it is whole and on disk with its sidecar; then `on_close` hears of it. `finished`:
    shards of an earlier run, which are kept and counted on from.

    Attribute `blank`: documents left out because their text gave no token.
    """

    def __init__(
        self,
        folder: Path,
        shard_tokens: int,
        *,
        prefix: str = "",
        finished: Sequence[FinishedShard] = (),
        on_close: Callable[[FinishedShard], None] | None = None,
    ) -> None:
        self.blank = finished[-1].blank if finished else 0
        self._folder = folder
        self._shard_tokens = shard_tokens
        self._prefix = prefix
        self._on_close = on_close
        self._tar: Any = None
        self._entries = [shard.entry for shard in finished]
        self._member: list[np.ndarray] = []
        self._member_bytes = 0
        self._members = 0  # written to the open tar
        self._lengths: list[int] = []  # of the open tar's documents, those waiting in the member too
        self._tokens = 0

    def add(self, document: np.ndarray, number: int) -> None:
        """Append a document, uint16 or uint32 [tokens], its end included; `number`: its place in the inputs."""
        if len(document) == 1:
            self.blank += 1
            return
        self._member.append(document)
        self._member_bytes += document.nbytes
        self._lengths.append(len(document))
        self._tokens += len(document)
        full = self._tokens >= self._shard_tokens
        if full or self._member_bytes >= MEMBER_BYTES:
            self._write_member()
        if full:
            self._close_shard(number + 1)

    def finish(self, next_number: int) -> tuple[ShardEntry, ...]:
        """Close the last shard and return the manifest's entry of every one; `next_number`: documents of the inputs."""
        if self._member:
            self._write_member()
        if self._tar is not None:
            self._close_shard(next_number)
        return tuple(self._entries)

    @property
    def _name(self) -> str:
        return f"{self._prefix}{len(self._entries):06d}"

    def _write_member(self) -> None:
        if self._tar is None:
            self._tar = _open_tar(self._folder / f".tokens-{self._name}.tar")
        key = f"{self._name}-{self._members:06d}"
        self._tar.write({"__key__": key, TOKENS_FIELD: np.concatenate(self._member).tobytes()})
        self._member, self._member_bytes = [], 0
        self._members += 1

    def _close_shard(self, next_number: int) -> None:
        self._tar.close()
        stem = f"tokens-{self._name}"
        path, index_path = (self._folder / f".{stem}{end}" for end in (".tar", ".index.npz"))
        offsets, sizes = walk_tar(path)
        digest = sha256_of(path)
        ShardIndex(offsets, sizes, np.array(self._lengths, dtype=np.int64), digest).save(index_path)
        entry = ShardEntry(
            file=f"{stem}.tar",
            bytes=path.stat().st_size,
            sha256=digest,
            index=f"{stem}.index.npz",
            index_sha256=sha256_of(index_path),
            members=self._members,
            documents=len(self._lengths),
            tokens=self._tokens,
        )
        for hidden, name in ((path, entry.file), (index_path, entry.index)):
            flush_to_disk(hidden)
            hidden.rename(self._folder / name)
        self._entries.append(entry)
        self._tar, self._lengths, self._members, self._tokens = None, [], 0, 0
        if self._on_close is not None:
            self._on_close(FinishedShard(entry, next_number, self.blank))


def _open_tar(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of webdataset's own import
        from webdataset.writer import TarWriter  # loads torch: seconds that only a build should pay

    # Nothing of the machine, user or hour goes into the headers: equal tokens are equal bytes.
    # A whole number for the time: a fraction would cost each member a kilobyte of extended header.
    return TarWriter(str(path), user="", group="", mtime=0, encoder=False)
