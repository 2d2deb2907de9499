"""Writes the tensors of a checkpoint through torch.distributed.checkpoint: every process its own pieces, each once.

Checksums are of the bytes that were to be written, computed on the way: no file is read again, and a disk that writes
something else is found out by the first reader.
"""

import hashlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter, SerializationFormat, _write_item
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from armd_dist.checkpoint.folder import STATE_DIR, Sum
from armd_dist.checkpoint.pieces import Piece
from armd_dist.errors import CheckpointError, describe


@dataclass
class Written:
    """What this process has written so far. `files`: those that are done, by their name from the checkpoint on."""

    bytes: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    files: dict[str, Sum] = field(default_factory=dict)


def write_tensors(
    folder: Path, pieces: Mapping[str, Piece], group: dist.ProcessGroup | None = None, written: Written | None = None
) -> dict[str, Sum]:
    """Writes this process' pieces; returns size and checksum of its files. Collective over `group`.

    Raises the same CheckpointError everywhere, which names the processes that failed, and the file.
    """
    written = written or Written()
    try:
        save(dict(pieces), storage_writer=_Writer(folder, written), planner=_Planner(pieces), process_group=group)
    except CheckpointException as error:
        failed = [f"rank {rank}: {describe(cause)}" for rank, (cause, _) in sorted(error.failures.items())]
        raise CheckpointError("; ".join(failed)) from error
    return written.files


class _Planner(DefaultSavePlanner):
    """Asks for the pieces' boxes; no two processes hold the same one."""

    def __init__(self, pieces: Mapping[str, Piece]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self.boxes: dict[tuple[str, torch.Size | None], Tensor] = {
            (name, torch.Size(offsets)): box for name, piece in pieces.items() for offsets, box in piece.boxes()
        }
        self.pieces = pieces

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([self._item(name, cast(torch.Size, at)) for name, at in self.boxes])
        return self.plan

    def _item(self, name: str, offsets: torch.Size) -> WriteItem:
        box = self.boxes[name, offsets]
        data = TensorWriteData(
            chunk=ChunkStorageMetadata(offsets=offsets, sizes=box.shape),
            properties=TensorProperties.create_from_tensor(box),
            size=torch.Size(self.pieces[name].whole),
        )
        return WriteItem(index=MetadataIndex(name, offsets), type=WriteItemType.SHARD, tensor_data=data)

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        return self.boxes[index.fqn, index.offset]


class _Writer(FileSystemWriter):
    """One file a process, box after box. torch's own keeps a copy of every box until the file is done."""

    def __init__(self, folder: Path, written: Written) -> None:
        super().__init__(folder / STATE_DIR)
        self.fs, self.ended = _Disk(folder, written), written.ended

    def _write_data(self, planner: SavePlanner, file_queue: Queue) -> Future[list[WriteResult]]:
        path, name, items = file_queue.get_nowait()
        try:
            results = self._write_items(planner, path, name, items) if items else []
        finally:
            self.ended.set()
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def _write_items(self, planner: SavePlanner, path: Path, name: str, items: list[WriteItem]) -> list[WriteResult]:
        results = []
        with self.fs.create_stream(path, "wb") as stream:
            for item in items:
                # A view would be saved with all of the storage behind it.
                box = planner.resolve_data(item).clone()  # type: ignore[union-attr]
                results.append(_write_item(self.transforms, stream, box, item, name, SerializationFormat.TORCH_SAVE))
            os.fsync(stream.fileno())
        return results


class _Disk(FileSystem):
    """Files whose checksums are noted as they are written."""

    def __init__(self, folder: Path, written: Written) -> None:
        self.folder, self.written = folder, written

    @contextmanager
    def create_stream(self, path: str | os.PathLike, mode: str) -> Iterator[io.IOBase]:
        with open(path, "wb", buffering=0) as file:
            stream = _Stream(file, self.written)
            yield cast(io.IOBase, stream)
            stream.fileno()
        self.written.files[self._name(path)] = Sum(stream.position, stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike, new_path: str | os.PathLike) -> None:
        super().rename(path, new_path)
        self.written.files[self._name(new_path)] = self.written.files.pop(self._name(path))

    def _name(self, path: str | os.PathLike) -> str:
        return str(Path(path).relative_to(self.folder))


class _Stream:
    """A file. Its first error is kept and raised between tensors: torch.save would put one of its own in the place."""

    def __init__(self, file: io.FileIO, written: Written) -> None:
        self.file, self.written = file, written
        self.digest, self.position = hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self.error is None:
            try:
                self._write(memoryview(data).cast("B"))
            except OSError as error:
                self.error = OSError(error.errno, error.strerror, self.file.name)
        self.position += size
        return size

    def _write(self, left: memoryview) -> None:
        self.digest.update(left)
        while left:
            count = self.file.write(left)
            left = left[count:]
            self.written.bytes += count

    def tell(self) -> int:
        self._raise()
        return self.position

    def fileno(self) -> int:
        self._raise()
        return self.file.fileno()

    def flush(self) -> None:
        """Nothing is held back."""

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error
