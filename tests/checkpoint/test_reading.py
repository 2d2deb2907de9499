"""Any piece of what was written is read, and little else; what does not fit is told."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from armd_dist.checkpoint import reading
from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.reading import read_pieces
from armd_dist.checkpoint.tensors import read_alone, read_tensors
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.errors import CheckpointError


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield tmp_path
    dist.destroy_process_group()


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(folder, {name: Piece.of_whole(tensor) for name, tensor in tensors.items()})


@pytest.mark.parametrize("shape", [(7,), (4, 6), (1, 6), (3, 2, 4)])
def test_every_run_of_every_part_is_read(shape: tuple[int, ...], alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole and of its halves by the last dimension; some values at a time, so that blocks end anywhere."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 40)
    whole = torch.randn(shape)
    write(alone, {"a": whole})
    first = shape[-1] // 2
    for offset, part in ((0, whole), (0, whole[..., :first]), (first, whole[..., first:])):
        place = (*[0] * (len(shape) - 1), offset)
        flat, count, told = part.flatten(), part.numel(), 0
        pieces = {}
        for start, end in itertools.combinations_with_replacement(range(0, count + 1, 1 + count // 7), 2):
            into = torch.full((end - start,), torch.nan)
            pieces[start, end] = Piece(shape, place, tuple(part.shape), start, into)
        for (start, end), piece in pieces.items():
            counted: list[int] = []
            read_pieces(alone, {"a": piece}, counted.append)
            assert torch.equal(piece.values, flat[start:end])
            told += sum(counted)
        assert told == 4 * sum(end - start for start, end in pieces)


def test_a_share_is_read_and_no_more(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the middle of a row to the middle of another: bytes of the files, and host memory, as the kernel counts."""
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 20)
    shape = (4096, 4096)
    whole = Piece.of_whole(torch.arange(float(prod(shape))).view(shape))
    write_tensors(alone, {"a": whole})
    share = whole.share(3, 7)
    mine = replace(share, values=torch.full(share.values.shape, torch.nan))
    process = psutil.Process()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before, resident = process.io_counters(), process.memory_info().rss
    read_pieces(alone, {"a": mine})
    read = process.io_counters().read_chars - before.read_chars  # type: ignore[attr-defined]
    assert torch.equal(mine.values, share.values)
    assert read < 1.01 * mine.values.nbytes
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) * 1024 - resident < mine.values.nbytes / 2


def test_what_does_not_fit_is_told_at_once(alone: Path) -> None:
    write(alone, {"weight/a": torch.zeros(4, 6), "weight/b": torch.zeros(3)})
    file = alone / "state" / ".metadata"
    into = {"weight/a": torch.ones(4, 6), "weight/b": torch.ones(2), "exp_avg/a": torch.ones(4, 6)}
    for read in (read_alone, lambda folder, tensors: read_tensors(folder, as_pieces(tensors))):
        with pytest.raises(CheckpointError) as raised:
            read(alone, into)
        assert str(raised.value) == (
            f"{file}: is of another model (its weight/b has shape (3,) instead of (2,); it lacks exp_avg/a of shape "
            f"(4, 6)); use the model.* settings of {alone / 'run.yaml'}"
        )
    assert all((tensor == 1).all() for tensor in into.values()), "nothing is read before all of it fits"


def as_pieces(tensors: dict[str, Tensor]) -> dict[str, Piece]:
    return {name: Piece.of_whole(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize("harm", ["cut", "gone", "metadata"])
def test_what_cannot_be_read_is_told(harm: str, alone: Path) -> None:
    write(alone, {"weight/a": torch.zeros(4, 6)})
    file = alone / "state" / (".metadata" if harm == "metadata" else "__0_0.distcp")
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="cannot be read") as raised:
        read_alone(alone, {"weight/a": torch.zeros(4, 6)})
    assert str(raised.value).startswith(f"{file}: ")


def test_values_that_nobody_wrote_are_told(alone: Path) -> None:
    write_tensors(alone, {"a": Piece((4, 6), (0, 0), (4, 6), 5, torch.zeros(7))})
    read_pieces(alone, {"a": Piece((4, 6), (0, 0), (4, 6), 6, torch.zeros(3))})
    with pytest.raises(CheckpointError, match="a: 17 of its values were never written"):
        read_alone(alone, {"a": torch.zeros(4, 6)})
