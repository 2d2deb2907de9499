"""The schemes of generation against the table of the specification."""

import itertools

import numpy as np
import pytest

from armd_dist.orders.order import Order, from_blocks, from_permutation
from armd_dist.orders.schemes import any_order, left_to_right, segments, strided, strided_blocks
from armd_dist.orders.strided import num_heads, stream_length, strided_places


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_valid(order: Order, length: int) -> None:
    """Every place once, revealed block by block, no block left out."""
    assert sorted(order.position.tolist()) == list(range(1, length + 1))
    assert order.block[0] == 1
    assert set(np.diff(order.block).tolist()) <= {0, 1}
    assert order.position.dtype == order.block.dtype == np.int64


@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_every_scheme_reveals_every_place_once(length: int) -> None:
    singles = [left_to_right(length), any_order(length, draw())]
    singles += [segments(length, rho, draw()) for rho in range(1, length + 1)]
    for order in singles:
        assert_valid(order, length)
        assert order.singletons
    for streams in range(1, length + 1):
        assert_valid(strided(length, streams), length)


def test_left_to_right() -> None:
    order = left_to_right(5)
    assert order.position.tolist() == order.block.tolist() == [1, 2, 3, 4, 5]


def test_any_order_reaches_every_permutation_equally() -> None:
    generator = draw()
    seen = [tuple(any_order(3, generator).position) for _ in range(1200)]
    counts = [seen.count(found) for found in set(seen)]
    assert len(counts) == 6
    assert min(counts) > 150


def test_one_segment_is_left_to_right() -> None:
    order = segments(11, 1, draw())
    assert order.position.tolist() == left_to_right(11).position.tolist()


def test_segments_of_one_token_are_any_order() -> None:
    generator = draw()
    seen = {tuple(segments(3, 3, generator).position) for _ in range(200)}
    assert len(seen) == 6


@pytest.mark.parametrize(("length", "rho"), [(12, 4), (13, 4), (10, 3), (7, 5)])
def test_segments_are_contiguous_and_nearly_equal(length: int, rho: int) -> None:
    for seed in range(20):
        position = segments(length, rho, draw(seed)).position
        bounds = [k * length // rho for k in range(rho + 1)]
        expected = {tuple(range(a + 1, b + 1)) for a, b in itertools.pairwise(bounds)}
        found, rest = set(), position.tolist()
        while rest:
            whole = next(segment for segment in expected if segment[0] == rest[0])
            assert tuple(rest[: len(whole)]) == whole
            found.add(whole)
            rest = rest[len(whole) :]
        assert found == expected
        assert max(map(len, found)) - min(map(len, found)) <= 1


def test_segments_come_in_every_order() -> None:
    generator = draw()
    assert len({tuple(segments(9, 3, generator).position) for _ in range(200)}) == 6


@pytest.mark.parametrize(("streams", "steps"), [(1, 1024), (2, 513), (4, 259), (8, 135), (16, 79), (32, 63)])
def test_strided_steps_of_1024_tokens(streams: int, steps: int) -> None:
    order = strided(1024, streams)
    assert order.block.max() == steps == streams + 1024 // streams - 1
    assert len(strided_places(1024, streams)) == steps


def test_strided_by_hand() -> None:
    """7 tokens, 3 streams of 3, 3 and 1: heads at places 1, 4, 7, then two steps."""
    order = strided(7, 3)
    assert list(zip(order.position.tolist(), order.block.tolist(), strict=True)) == [
        (1, 1), (4, 2), (7, 3), (2, 4), (5, 4), (3, 5), (6, 5),
    ]  # fmt: skip


def test_strided_heads_follow_the_formula() -> None:
    """b(sM + 1) = s + 1, b(sM + 1 + j) = S + j."""
    length, streams = 24, 4
    stride = length // streams
    blocks = strided_blocks(length, streams)
    for s in range(streams):
        assert blocks[s * stride] == s + 1
        for j in range(1, stride):
            assert blocks[s * stride + j] == streams + j


def test_strided_blocks_and_places_agree() -> None:
    for length in range(1, 26):
        for streams in range(1, length + 1):
            blocks = strided_blocks(length, streams)
            places = strided_places(length, streams)
            for number, block in enumerate(places, start=1):
                assert np.flatnonzero(blocks == number).tolist() == block
            assert sorted(itertools.chain(*places)) == list(range(length))
            assert len(places) == num_heads(length, streams) + stream_length(length, streams) - 1


def test_fewer_streams_may_start_than_asked_for() -> None:
    assert num_heads(5, 4) == 3
    assert strided_places(5, 4) == [[0], [2], [4], [1, 3]]


@pytest.mark.parametrize("streams", [0, -1, 6])
def test_impossible_numbers_of_streams(streams: int) -> None:
    for function in (strided, strided_blocks, strided_places, num_heads):
        with pytest.raises(ValueError, match=f"streams={streams}: 5 tokens can be generated in 1 to 5 streams"):
            function(5, streams)


def test_singletons() -> None:
    assert not strided(8, 2).singletons
    assert strided(8, 1).singletons
    assert strided(1, 1).singletons
    assert from_permutation(np.array([2, 0, 1])).singletons


def test_blocks_keep_text_order_inside() -> None:
    order = from_blocks(np.array([2, 1, 2, 1, 3]))
    assert order.position.tolist() == [2, 4, 1, 3, 5]
    assert order.block.tolist() == [1, 1, 2, 2, 3]
