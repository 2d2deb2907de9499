"""Nearest visible tokens against a double loop over all pairs."""

import numpy as np
import pytest
import torch
from toys import BOS

from armd_dist.model.neighbours import NOTHING, nearest_visible


def by_brute_force(ids: list[int], positions: list[int], blocks: list[int]) -> list[tuple[int, int, int | None, int]]:
    """(left id, left distance, right id or None, right distance) of every row."""
    found = []
    for place, block in zip(positions, blocks, strict=True):
        left, right = (place, BOS), (NOTHING, None)
        for token, other, other_block in zip(ids, positions, blocks, strict=True):
            if other_block < block and other < place and place - other < left[0]:
                left = (place - other, token)
            if other_block < block and other > place and (right[1] is None or other - place < right[0]):
                right = (other - place, token)
        found.append((left[1], left[0], right[1], right[0]))
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 17, 60])
@pytest.mark.parametrize("blocks_of", ["permutation", "few", "one", "left to right", "right to left", "gaps"])
def test_against_brute_force(blocks_of: str, length: int) -> None:
    draw = np.random.default_rng(length)
    batch = 4
    ids = draw.integers(10, 10_000, (batch, length))
    # In "gaps" the rows are only some of the places of the text.
    last = 2 * length if blocks_of == "gaps" else length
    positions = np.stack([1 + draw.permutation(last)[:length] for _ in range(batch)])
    blocks = {
        "permutation": np.stack([draw.permutation(length) for _ in range(batch)]),
        "few": draw.integers(0, 4, (batch, length)),
        "one": np.zeros((batch, length), dtype=np.int64),
        "left to right": positions,
        "right to left": last + 1 - positions,
        "gaps": draw.integers(0, 6, (batch, length)),
    }[blocks_of]
    near = nearest_visible(*(torch.from_numpy(part) for part in (ids, positions, blocks)), bos_id=BOS)
    for row in range(batch):
        expected = by_brute_force(ids[row].tolist(), positions[row].tolist(), blocks[row].tolist())
        parts = (near.left_ids, near.left_distance, near.right_ids, near.right_distance)
        for got, wanted in zip(zip(*(part[row].tolist() for part in parts), strict=True), expected, strict=True):
            assert got[:2] == wanted[:2]
            assert got[3] == wanted[3]
            if wanted[2] is not None:
                assert got[2] == wanted[2]


@pytest.mark.parametrize("blocks_of", ["permutation", "few", "left to right"])
def test_within_documents_each_has_its_own(blocks_of: str) -> None:
    """As brute force finds them in each document by itself, and with places of the whole text left out too."""
    draw = np.random.default_rng(0)
    sizes, length = [7, 1, 12, 4], 24
    before = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
    blocks = {
        "permutation": draw.permutation(length),
        "few": draw.integers(0, 4, length),
        "left to right": np.arange(length),
    }[blocks_of]
    ids, places = draw.integers(10, 10_000, length), np.arange(1, length + 1)
    for kept in (np.arange(length), np.sort(draw.permutation(length)[:17])):
        rows = draw.permutation(kept)
        given = [torch.from_numpy(part[rows])[None] for part in (ids, places, before * length + blocks, before)]
        near = nearest_visible(*given[:3], BOS, given[3])
        for at, row in enumerate(rows.tolist()):
            own = [one for one in rows.tolist() if before[one] == before[row]]
            parts = ([int(part[one]) for one in own] for part in (ids, places - before, blocks))
            left_id, left, right_id, right = by_brute_force(*parts)[own.index(row)]
            assert (near.left_ids[0, at], near.left_distance[0, at], near.right_distance[0, at]) == (
                left_id,
                left,
                right,
            )
            assert right_id is None or near.right_ids[0, at] == right_id


def test_left_to_right_is_the_previous_token() -> None:
    ids, at = torch.tensor([[7, 8, 9]]), torch.tensor([[1, 2, 3]])
    near = nearest_visible(ids, at, at, BOS)
    assert near.left_ids.tolist() == [[BOS, 7, 8]]
    assert near.left_distance.tolist() == [[1, 1, 1]]
    assert near.right_distance.tolist() == [[NOTHING] * 3]


def test_prompt_sees_bos_alone() -> None:
    ids, at, blocks = torch.tensor([[7, 8, 9]]), torch.tensor([[1, 2, 3]]), torch.tensor([[0, 0, 1]])
    near = nearest_visible(ids, at, blocks, BOS)
    assert near.left_ids.tolist() == [[BOS, BOS, 8]]
    assert near.left_distance.tolist() == [[1, 2, 1]]
