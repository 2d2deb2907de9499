"""Reads tensors that torch.distributed.checkpoint wrote, in any layout: every process the bytes of its own pieces.

torch's own reader takes each written box whole, however little of it is wanted: under ZeRO 3, where each of N processes
keeps 1/N of every matrix, all of them together would read a checkpoint N times.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from itertools import groupby
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.utils import _create_file_view

from armd_dist.checkpoint.folder import STATE_DIR
from armd_dist.checkpoint.pieces import Piece, Place
from armd_dist.errors import CheckpointError, describe

BLOCK_BYTES = 1 << 24  # in host memory at a time
TOLD = 5  # tensors that do not fit, by name; of more the number


@dataclass(frozen=True)
class _Wanted:
    """The part of a written box, from `offsets` of it on, that `into` has room for. The box: `length` bytes at `at`."""

    file: str
    at: int
    length: int
    offsets: Place
    into: Tensor


def read_pieces(
    folder: Path,
    pieces: Mapping[str, Piece],
    advance: Callable[[int], object] = lambda _: None,
    metadata: Metadata | None = None,
) -> None:
    """Fills the pieces' values in place, on whatever device they are. Not collective.

    advance: told how many bytes of them were filled. metadata: the folder's, for those who read piece after piece. Host
    memory: 16 MiB, or a tensor's row where that is more. Raises CheckpointError, with all tensors that the checkpoint
    lacks or has in another shape.
    """
    metadata = metadata or read_metadata(folder)
    refuse_another_model(folder, metadata, pieces)
    with _told(folder / STATE_DIR / ".metadata"):
        wanted = [each for name, piece in pieces.items() for each in _wanted(metadata, name, piece)]
    wanted.sort(key=lambda each: (each.file, each.at))
    for name, parts in groupby(wanted, key=lambda each: each.file):
        file = folder / STATE_DIR / name
        with _told(file), open(file, "rb") as stream:
            for (at, length), of_box in groupby(parts, key=lambda each: (each.at, each.length)):
                box, begin = _box(stream, at, length)
                for part in of_box:
                    _fill(stream, box, begin, part, advance)


def read_metadata(folder: Path) -> Metadata:
    """Which part of which tensor lies where in a checkpoint. Raises CheckpointError."""
    with _told(folder / STATE_DIR / ".metadata"):
        return FileSystemReader(folder / STATE_DIR).read_metadata()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged pickle raises anything
        raise CheckpointError(f"{file}: cannot be read ({describe(error)})") from error


def refuse_another_model(folder: Path, metadata: Metadata, pieces: Mapping[str, Piece]) -> None:
    """Raises CheckpointError, with all tensors that the checkpoint lacks or has in another shape."""
    problems = []
    for name, piece in pieces.items():
        written = metadata.state_dict_metadata.get(name)
        if not isinstance(written, TensorStorageMetadata):
            problems.append(f"it lacks {name} of shape {piece.whole}")
        elif tuple(written.size) != piece.whole:
            problems.append(f"its {name} has shape {tuple(written.size)} instead of {piece.whole}")
    if problems:
        more = [f"and {len(problems) - TOLD} more"] if len(problems) > TOLD else []
        raise CheckpointError(
            f"{folder / STATE_DIR / '.metadata'}: is of another model ({'; '.join(problems[:TOLD] + more)}); "
            f"use the model.* settings of {folder / 'run.yaml'}"
        )


def _wanted(metadata: Metadata, name: str, piece: Piece) -> Iterator[_Wanted]:
    boxes, found = list(piece.boxes()), 0
    chunks = [ChunkStorageMetadata(torch.Size(offsets), box.shape) for offsets, box in boxes]
    written = cast(TensorStorageMetadata, metadata.state_dict_metadata[name])
    for item in create_read_items_for_chunk_list(name, written, chunks):
        _, into = boxes[cast(int, item.dest_index.index)]
        for dim, (start, size) in enumerate(zip(item.dest_offsets, item.lengths, strict=True)):
            into = into.narrow(dim, start, size)
        info, found = metadata.storage_data[item.storage_index], found + into.numel()
        yield _Wanted(info.relative_path, info.offset, info.length, tuple(item.storage_offsets), into.detach())
    if found != piece.values.numel():
        raise CheckpointError(f"{name}: {piece.values.numel() - found} of its values were never written")


def _box(stream: BufferedReader, at: int, length: int) -> tuple[Tensor, int]:
    """A written tensor without its values, and where in the file these begin."""
    view = cast(IO[bytes], _create_file_view(stream, at, length))
    box: Tensor = torch.load(view, map_location="meta", weights_only=True)
    begin = cast(int, box.untyped_storage()._checkpoint_offset)  # within the view
    return box, at + begin + int(box.storage_offset()) * box.element_size()


def _fill(stream: BufferedReader, box: Tensor, begin: int, part: _Wanted, advance: Callable[[int], object]) -> None:
    """Reads from the first to the last value that is wanted, some rows at a time."""
    strides, size = box.stride(), box.element_size()
    begin += size * sum(offset * stride for offset, stride in zip(part.offsets, strides, strict=True))
    rows = max(1, BLOCK_BYTES // (strides[0] * size))
    for number, into in enumerate(part.into.split(rows)):
        last = sum((count - 1) * stride for count, stride in zip(into.shape, strides, strict=True))
        values = bytearray((last + 1) * size)
        stream.seek(begin + number * rows * strides[0] * size)
        if stream.readinto(values) != len(values):
            raise EOFError("it ends too early")
        into.copy_(torch.frombuffer(values, dtype=box.dtype).as_strided(into.shape, strides))
        advance(into.numel() * into.element_size())
