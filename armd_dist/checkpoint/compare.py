"""What differs between the tensors of two checkpoints, of any two layouts."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from armd_dist.checkpoint.reading import read_metadata
from armd_dist.checkpoint.tensors import read_alone

BATCH_BYTES = 1 << 29  # of one checkpoint, in memory at a time


@dataclass(frozen=True)
class Difference:
    """A tensor of one shape in both (norms of B - A and of A), or of two shapes, None where it is missing."""

    name: str
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    norm: float = 0.0
    norm_before: float = 0.0

    @property
    def share(self) -> float:
        """The norm of the difference in units of A's norm."""
        return self.norm / self.norm_before if self.norm_before else float("inf") if self.norm else 0.0


def compare_tensors(before: Path, after: Path) -> list[Difference]:
    """Tensors that differ, other shapes first and then the biggest share; equal ones are left out.

    Reads both checkpoints to the end, half a gigabyte at a time. Raises CheckpointError.
    """
    shapes = [_shapes(path) for path in (before, after)]
    found = [
        Difference(name, shapes[0].get(name), shapes[1].get(name))
        for name in sorted(shapes[0].keys() | shapes[1].keys())
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    both = {name: shape for name, shape in shapes[0].items() if shapes[1].get(name) == shape}
    measured: list[Difference] = []
    for batch in _batches(both):
        here, there = _read(before, batch), _read(after, batch)
        for name, shape in batch.items():
            if not torch.equal(here[name], there[name]):
                norms = (_norm(there[name] - here[name]), _norm(here[name]))
                measured.append(Difference(name, shape, shape, *norms))
    return found + sorted(measured, key=lambda one: -one.share)


def _shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    written = read_metadata(checkpoint).state_dict_metadata
    return {name: tuple(one.size) for name, one in written.items() if isinstance(one, TensorStorageMetadata)}


def _batches(shapes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    batch: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if batch and 4 * sum(map(prod, [*batch.values(), shape])) > BATCH_BYTES:
            yield batch
            batch = {}
        batch[name] = shape
    if batch:
        yield batch


def _read(checkpoint: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    read_alone(checkpoint, tensors)
    return tensors


def _norm(tensor: Tensor) -> float:
    return tensor.double().norm().item()
