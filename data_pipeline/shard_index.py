"""Where the tokens lie inside a shard: the sidecar index, the tar's own headers, and reading by offset."""

import re
import zipfile
from dataclasses import dataclass
from mmap import ACCESS_READ, MADV_RANDOM, mmap
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.manifest import ShardEntry

TAR_BLOCK = 512
TOKENS_FIELD = "bin"  # member 000000-000003.bin: raw little-endian ids, which plain webdataset yields as bytes
INDEX_ARRAYS = ("offsets", "sizes", "document_lengths")


@dataclass(frozen=True)
class ShardIndex:
    """The sidecar of one tar.

    `offsets`, `sizes`: int64 [members], bytes of each member's data from the start of the tar. `document_lengths`:
    int64 [documents], tokens with the end-of-document token, in order; a document never leaves its member.
    `tar_sha256` ties the index to its tar.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    document_lengths: np.ndarray
    tar_sha256: str

    def save(self, path: Path) -> None:
        """Write an uncompressed .npz; equal indexes give equal bytes."""
        arrays = {name: getattr(self, name) for name in INDEX_ARRAYS}
        np.savez(path, tar_sha256=np.array(self.tar_sha256), **arrays)

    @classmethod
    def load(cls, path: Path) -> "ShardIndex":
        """Read a sidecar; `DataError` when it is missing or damaged."""
        *arrays, digest = _read(path, INDEX_ARRAYS)
        return cls(*arrays, tar_sha256=str(digest[0]))


def _read(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Those arrays of a sidecar, and its tar's checksum last, as text [1]."""
    try:
        with zipfile.ZipFile(path) as file:
            return [_array(file.read(f"{name}.npy")) for name in (*names, "tar_sha256")]
    except FileNotFoundError:
        raise DataError(f"{path}: the shard's index is missing; restore it or build the dataset again") from None
    except Exception as error:  # zipfile, numpy and zlib each have their own
        raise DataError(f"{path}: the shard's index is damaged ({error}); build the dataset again") from None


def _array(data: bytes) -> np.ndarray:
    """An .npy file of at most one axis. NumPy's own reader takes far longer, and a step may open many shards."""
    header = re.match(rb"\x93NUMPY\x01\x00(..)\{'descr': '(<[iU]\d+)', 'fortran_order': False,", data, re.DOTALL)
    if header is None:
        raise ValueError("an array of another kind")
    return np.frombuffer(data, header[2].decode(), offset=10 + int.from_bytes(header[1], "little"))


def walk_tar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and sizes (int64 [members], bytes) of the token members, from the 512-byte headers alone.

    Raises `DataError` when a header is no tar header or a member runs past the end of the file.
    """
    data = np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, dtype=np.uint8)
    offsets, sizes, position = [], [], 0
    while position + TAR_BLOCK <= len(data) and data[position] != 0:  # a zero block ends the archive
        header = data[position : position + TAR_BLOCK].tobytes()
        try:
            size = int(header[124:136].rstrip(b"\0 "), 8)
        except ValueError:
            size = -1
        if header[257:262] != b"ustar" or size < 0 or position + TAR_BLOCK + size > len(data):
            raise DataError(f"{path}: damaged tar header at byte {position}; restore the shard or build it again")
        if header[:100].rstrip(b"\0").endswith(b"." + TOKENS_FIELD.encode()):
            offsets.append(position + TAR_BLOCK)
            sizes.append(size)
        position += TAR_BLOCK + -(-size // TAR_BLOCK) * TAR_BLOCK
    return np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64)


def check_shard_file(folder: Path, shard: ShardEntry) -> None:
    """Raise `DataError` unless the tar is there with the size that the manifest says."""
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: the shard is missing; restore it or build the dataset again") from None
    if size != shard.bytes:
        raise DataError(
            f"{path}: truncated or changed: {size:,} bytes, the manifest says {shard.bytes:,}; "
            "restore the shard or build the dataset again"
        )


class Shard:
    """An open shard: its tokens as one sequence, read through an mmap.

    `starts`: int64 [members + 1], the token at which each member begins, and the shard's token count last.
    """

    def __init__(self, folder: Path, entry: ShardEntry, dtype: str) -> None:
        """Open a tar and its sidecar; `DataError` when either is missing, truncated or not of the other."""
        check_shard_file(folder, entry)
        self._read_index(folder, entry, dtype)
        with (folder / entry.file).open("rb") as file:
            self._map(file, dtype)

    def _read_index(self, folder: Path, entry: ShardEntry, dtype: str) -> None:
        offsets, sizes, digest = _read(folder / entry.index, ("offsets", "sizes"))
        width = np.dtype(dtype).itemsize
        self.starts = np.concatenate([[0], np.cumsum(sizes // width)])
        if digest[0] != entry.sha256 or int(self.starts[-1]) != entry.tokens:
            raise DataError(f"{folder / entry.index}: the index of another tar than {entry.file}; build again")
        self._begin = offsets // width

    def _map(self, tar: BinaryIO, dtype: str) -> None:
        # Tar data starts at multiples of 512 bytes, so one typed view over the whole file serves every member.
        data = mmap(tar.fileno(), 0, access=ACCESS_READ)
        data.madvise(MADV_RANDOM)  # windows lie anywhere: reading ahead would fetch megabytes for each
        stored = np.dtype(dtype).newbyteorder("<")
        self._tokens = np.frombuffer(data, stored, count=len(data) // stored.itemsize)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) of the shard, of the stored dtype: int [stop - start]."""
        return self._gather(start, stop)

    def _gather(self, start: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(self.starts, [start, stop - 1], side="right") - 1
        parts = []
        for member in range(first, last + 1):
            origin = self._begin[member] - self.starts[member]
            low, high = max(start, self.starts[member]), min(stop, self.starts[member + 1])
            parts.append(self._tokens[origin + low : origin + high])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_many(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Rows of `length` tokens from each of `starts`, within the shard, of the stored dtype: int [k, length]."""
        members = np.searchsorted(self.starts, starts, side="right") - 1
        begins = self._begin[members] + starts - self.starts[members]
        inside = starts + length <= self.starts[members + 1]
        if inside.all():  # one copy of all rows
            return np.lib.stride_tricks.sliding_window_view(self._tokens, length)[begins]
        return np.stack([self.read(start, start + length) for start in starts.tolist()])
