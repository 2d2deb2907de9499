"""A bijection at every size, fixed by its key, without structure that a reader would notice."""

import numpy as np
import pytest

from data_pipeline.permutation import TOGETHER, Permutation, items_at


@pytest.mark.parametrize("size", [*range(1, 70), 127, 128, 129, 1000, 4095, 4096, 4097, 65537])
def test_every_item_once(size: int) -> None:
    items = Permutation(size, key=(3, size))(np.arange(size))
    assert items.dtype == np.int64
    np.testing.assert_array_equal(np.sort(items), np.arange(size))


def test_values_are_pinned() -> None:
    """A change here changes the order of every run in progress."""
    assert Permutation(10, key=(5, 0))(np.arange(10)).tolist() == [7, 2, 3, 6, 8, 9, 1, 4, 5, 0]


def test_point_by_point_equals_all_at_once() -> None:
    shuffle = Permutation(1001, key=(1, 2))
    together = shuffle(np.arange(1001))
    assert [int(shuffle(np.array(k))) for k in range(0, 1001, 50)] == together[::50].tolist()
    np.testing.assert_array_equal(shuffle(np.arange(1000).reshape(10, 100)), together[:1000].reshape(10, 100))


def test_keys_give_different_orders() -> None:
    orders = {
        tuple(Permutation(50, key=key)(np.arange(50))) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (-1, 0), (2**80, 0)]
    }
    assert len(orders) == 6


def test_items_land_evenly() -> None:
    """Chi-square of where each of 12 items goes over 6,000 keys: 121 degrees of freedom, 5 deviations allowed."""
    size, draws = 12, 6000
    counts = np.zeros((size, size))
    for key in range(draws):
        counts[np.arange(size), Permutation(size, key=(key,))(np.arange(size))] += 1
    expected = draws / size
    freedom = (size - 1) ** 2
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * np.sqrt(2 * freedom)


def test_neighbours_part() -> None:
    items = Permutation(100_000, key=(7, 0))(np.arange(100_000))
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(items, np.arange(100_000))[0, 1]) < 0.02


def test_ten_billion_items_cost_nothing() -> None:
    items = Permutation(10**10, key=(5, 0))(np.arange(5 * 10**9, 5 * 10**9 + 512))
    assert len(np.unique(items)) == 512
    assert items.min() >= 0
    assert items.max() < 10**10


def test_outside_the_range() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        Permutation(0, key=(1,))
    with pytest.raises(IndexError, match="range"):
        Permutation(5, key=(1,))(np.array([5]))
    with pytest.raises(IndexError, match="range"):
        Permutation(5, key=(1,))(np.array([-1]))


@pytest.mark.parametrize("size", [1, 700, 5000])
def test_neighbours_together_are_each_alone(size: int) -> None:
    positions = np.random.default_rng(0).permutation(size)[: 2 * TOGETHER]
    np.testing.assert_array_equal(items_at(size, (3, 1), positions), Permutation(size, (3, 1))(positions))
