"""Runs of elements and the boxes that describe them; what is written comes back, whoever wrote which part."""

import itertools
from collections.abc import Iterator
from math import prod
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from armd_dist.checkpoint.compare import compare_tensors
from armd_dist.checkpoint.folder import STATE_DIR, sha256
from armd_dist.checkpoint.pieces import Piece, stage
from armd_dist.checkpoint.tensors import read_alone
from armd_dist.checkpoint.writing import Written, write_tensors


@pytest.mark.parametrize("shape", [(7,), (4, 5), (1, 6), (5, 1), (3, 2, 4)])
def test_boxes_are_the_run(shape: tuple[int, ...]) -> None:
    count = prod(shape)
    whole = torch.arange(float(count))
    for start, end in itertools.combinations_with_replacement(range(count + 1), 2):
        found = torch.full(shape, torch.nan)
        boxes = list(Piece(shape, (0,) * len(shape), shape, start, whole[start:end]).boxes())
        for offsets, box in boxes:
            place = tuple(slice(at, at + size) for at, size in zip(offsets, box.shape, strict=True))
            assert found[place].isnan().all()
            found[place] = box
        assert torch.equal(found.flatten()[start:end], whole[start:end])
        assert found.isnan().sum() == count - (end - start)
        assert len(boxes) <= 2 * len(shape) - 1


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Path]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield tmp_path
    dist.destroy_process_group()


def test_a_file_has_the_checksum_that_its_writer_says(alone: Path) -> None:
    """The second half of a matrix that is split by columns, from the middle of a row on."""
    files = write_tensors(alone, {"weight/a": Piece((4, 6), (0, 3), (4, 3), 5, torch.randn(7))})
    assert files.keys() == {str(file.relative_to(alone)) for file in alone.rglob("*.*")}
    assert files.keys() == {f"{STATE_DIR}/.metadata", f"{STATE_DIR}/__0_0.distcp"}
    for name, wanted in files.items():
        assert ((alone / name).stat().st_size, sha256(alone / name)) == (wanted.bytes, wanted.sha256)


def test_a_staged_copy_does_not_follow_and_is_used_again() -> None:
    live, buffers = torch.arange(6.0), {}
    staged = stage([("a", Piece((6,), (0,), (6,), 0, live))], buffers)["a"]
    live += 1
    assert torch.equal(staged.values, torch.arange(6.0))
    again = stage([("a", Piece((6,), (0,), (6,), 0, live))], buffers)["a"]
    assert again.values.data_ptr() == staged.values.data_ptr()
    assert torch.equal(again.values, live)


def test_differences_come_biggest_first(alone: Path) -> None:
    before = {"a": torch.ones(4), "b": torch.ones(2, 3), "same": torch.randn(5), "cut": torch.ones(2)}
    after = {"a": torch.ones(4), "b": torch.ones(2, 3) * 3, "same": before["same"], "cut": torch.ones(3)}
    after["a"][2] = 1.5
    for name, tensors in (("before", before), ("after", after)):
        pieces = {
            key: Piece(tuple(value.shape), (0,) * value.dim(), tuple(value.shape), 0, value.flatten())
            for key, value in tensors.items()
        }
        (alone / name).mkdir()
        written = Written()
        write_tensors(alone / name, pieces, written=written)
        assert written.ended.is_set()
        assert written.bytes == sum(file.stat().st_size for file in (alone / name / STATE_DIR).iterdir())
    found = compare_tensors(alone / "before", alone / "after")
    assert [(one.name, one.before, one.after) for one in found] == [
        ("cut", (2,), (3,)),
        ("b", (2, 3), (2, 3)),
        ("a", (4,), (4,)),
    ]
    assert [one.norm for one in found[1:]] == pytest.approx([24**0.5, 0.5])
    assert [one.share for one in found[1:]] == pytest.approx([2.0, 0.25])
    read_alone(alone / "after", into := {"b": torch.zeros(2, 3)})
    assert torch.equal(into["b"], after["b"])
