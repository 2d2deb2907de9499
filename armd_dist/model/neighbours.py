"""The nearest visible tokens of each place: a pure integer function of the order (our choice of query context)."""

from dataclasses import dataclass

import torch

from armd_dist.model.shapes import Ids

NOTHING = 0  # distance of a neighbour that does not exist


@dataclass(frozen=True)
class Neighbours:
    """For each query row the nearest tokens to its left and right that are revealed in an earlier block.

    Ids, and distances in places (>= 1). Where nothing stands to the right, the distance is 0 and the id means nothing.
    To the left there is always something: BOS at place 0 of the document. All [batch, rows].
    """

    left_ids: Ids
    left_distance: Ids
    right_ids: Ids
    right_distance: Ids

    def to(self, device: object) -> "Neighbours":
        return Neighbours(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def nearest_visible(ids: Ids, positions: Ids, blocks: Ids, bos_id: int, before: Ids | None = None) -> Neighbours:
    """Neighbours of rows given as (id, place in the text >= 1, block), each [batch, rows], in any storage order.

    before: tokens of the text before each row's document, where none is looked for outside of it. The blocks of a
    later document must be later: then nothing in it is a neighbour to the right.
    """
    batch, last = ids.shape[0], int(positions.max())
    # Tables by place, with BOS at 0 and a wall behind the last place; both earlier than every block.
    shape = (batch, last + 2)
    block_at = torch.full(shape, torch.iinfo(torch.int64).max, device=ids.device).scatter(1, positions, blocks)
    block_at[:, 0] = block_at[:, -1] = torch.iinfo(torch.int64).min
    id_at = torch.full(shape, bos_id, device=ids.device).scatter(1, positions, ids)
    left = _nearest_smaller(block_at).gather(1, positions)
    left_ids = id_at.gather(1, left)
    if before is not None:
        left_ids = torch.where(left > before, left_ids, bos_id)
        left = torch.maximum(left, before)
    right = last + 1 - _nearest_smaller(block_at.flip(1)).gather(1, last + 1 - positions)
    return Neighbours(
        left_ids=left_ids,
        left_distance=positions - left,
        right_ids=id_at.gather(1, right),
        right_distance=torch.where(right == last + 1, NOTHING, right - positions),
    )


def _nearest_smaller(values: Ids) -> Ids:
    """For each column the nearest column to its left with a smaller value, or column 0 where there is none.

    Pointer jumping: everything between a column and where it points is known to be no smaller than the column, so a
    pointer that lands on something too large may follow that one's pointer.
    """
    points = (torch.arange(values.shape[1], device=values.device) - 1).clamp(min=0).expand_as(values)
    while True:
        stuck = (values.gather(1, points) >= values) & (points > 0)
        if not stuck.any():
            return points
        points = torch.where(stuck, points.gather(1, points), points)
