"""What one process holds of a tensor, as it lies: a run of the elements of its tensor-parallel part."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import torch
from torch import Tensor

Place = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """`values`, flat: the elements from `start` on of a part of shape `shape` that begins at `offsets` of the whole."""

    whole: Place
    offsets: Place
    shape: Place
    start: int
    values: Tensor

    @classmethod
    def of_whole(cls, tensor: Tensor) -> Self:
        """All of a contiguous tensor."""
        shape = tuple(tensor.shape)
        return cls(shape, (0,) * tensor.dim(), shape, 0, tensor.view(-1))

    def share(self, number: int, count: int) -> Self:
        """The `number`th of `count` parts of it, all about as large."""
        start, end = (self.values.numel() * each // count for each in (number, number + 1))
        return replace(self, start=self.start + start, values=self.values[start:end])

    def boxes(self) -> Iterator[tuple[Place, Tensor]]:
        """(offsets in the whole, values): the same elements in as few boxes as they make, of a matrix three at most.

        torch.distributed.checkpoint knows a tensor by boxes; ZeRO cuts it anywhere.
        """
        taken = 0
        for at, sizes in _boxes(self.shape, self.start, self.values.numel()):
            count = prod(sizes)
            offsets = tuple(mine + inside for mine, inside in zip(self.offsets, at, strict=True))
            yield offsets, self.values[taken : taken + count].view(sizes)
            taken += count


def stage(pieces: Iterable[tuple[str, Piece]], buffers: dict[str, Tensor]) -> dict[str, Piece]:
    """The pieces with their values copied to the host, where the optimizer does not change them.

    buffers: host memory by name. What it lacks is made; the next call writes over it, so that no copy waits for memory.
    """
    pinned = torch.cuda.is_available()
    staged = {}
    for name, piece in pieces:
        buffer = buffers.get(name)
        if buffer is None:
            buffer = buffers[name] = torch.empty(piece.values.shape, dtype=piece.values.dtype, pin_memory=pinned)
        # One from a GPU that is to be freed at once is only handed out again behind the copy, on the same stream.
        staged[name] = replace(piece, values=buffer.copy_(piece.values, non_blocking=pinned))
    if pinned:
        torch.cuda.synchronize()
    return staged


def _boxes(shape: Place, start: int, count: int) -> Iterator[tuple[Place, Place]]:
    """(offsets, sizes) of the boxes that `count` elements from `start` on fill, in their sequence."""
    if len(shape) == 1:
        if count:
            yield (start,), (count,)
        return
    row = prod(shape[1:])
    first, inside = divmod(start, row)
    head = min(count, row - inside) if inside else 0
    for at, sizes in _boxes(shape[1:], inside, head):
        yield (first, *at), (1, *sizes)
    first, rows, tail = first + bool(inside), *divmod(count - head, row)
    if rows:
        yield (first, *[0] * len(shape[1:])), (rows, *shape[1:])
    for at, sizes in _boxes(shape[1:], 0, tail):
        yield (first + rows, *at), (1, *sizes)
