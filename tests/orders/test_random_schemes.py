"""The schemes that draw: what they change, what they leave alone, and how often."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from armd_dist.orders.order import Order
from armd_dist.orders.schemes import (
    any_order,
    block_diffusion,
    in_blocks,
    left_to_right,
    masked_diffusion,
    segments,
    strided,
    tokens,
    window,
)

LENGTHS = [1, 2, 7, 16, 33]
# Chi-square values that a true null exceeds once in 10,000 draws, by degrees of freedom; the seeds are fixed.
LIMIT = {1: 15.1, 3: 21.1, 5: 25.7, 23: 56.0}


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blocks_in_text(order: Order) -> np.ndarray:
    """[length] block of every place."""
    return order.block[order.position.argsort()]


def chi_square(found: list, outcomes: int) -> float:
    _, counts = np.unique(np.array(found), axis=0, return_counts=True)
    assert len(counts) == outcomes
    expected = len(found) / outcomes
    return float(((counts - expected) ** 2 / expected).sum())


def drawn_orders(length: int, seed: int) -> list[Order]:
    size = min(3, length)
    return [
        any_order(length, draw(seed)),
        segments(length, size, draw(seed)),
        tokens(length, size, draw(seed)),
        window(length, size, draw(seed)),
        masked_diffusion(length, 1, draw(seed)),
        masked_diffusion(length, 5, draw(seed)),
        masked_diffusion(length, 1000, draw(seed)),
        block_diffusion(length, 4, 4, draw(seed)),
        block_diffusion(length, 5, 2, draw(seed)),
        block_diffusion(length, 1, 1, draw(seed)),
        strided(length, size),
        *(in_blocks(any_order(length, draw(seed)), wide) for wide in (1, 2, 4, 100)),
    ]


@pytest.mark.parametrize("length", LENGTHS)
def test_every_scheme_is_an_order(length: int) -> None:
    for seed in range(5):
        for order in drawn_orders(length, seed):
            assert sorted(order.position.tolist()) == list(range(1, length + 1))
            assert order.block.min() >= 1
            assert (np.diff(order.block) >= 0).all()
            assert order.position.dtype == order.block.dtype == np.int64


def test_tokens_changes_at_most_rho_places() -> None:
    for rho in (1, 2, 5, 16):
        changed = [(tokens(16, rho, draw(seed)).position != np.arange(1, 17)).sum() for seed in range(100)]
        assert max(changed) <= rho
        # A random permutation leaves one place where it was, on average.
        assert np.mean(changed) == pytest.approx(rho - 1, abs=0.35)
        assert tokens(16, rho, draw()).singletons


def test_tokens_exchanges_any_two_places() -> None:
    generator = draw(1)
    changed = [np.flatnonzero(tokens(4, 2, generator).position != np.arange(1, 5)) for _ in range(4_000)]
    pairs = [tuple(found) for found in changed if len(found)]
    assert len(pairs) / 4_000 == pytest.approx(0.5, abs=0.03)
    assert chi_square(pairs, 6) < LIMIT[5]


@pytest.mark.parametrize("scheme", [tokens, window])
def test_ends_of_rho(scheme: Callable[[int, int, np.random.Generator], Order]) -> None:
    """rho = 1 is left to right, rho = length any order, every permutation as likely."""
    assert scheme(9, 1, draw()).position.tolist() == list(range(1, 10))
    generator = draw(2)
    assert chi_square([tuple(scheme(4, 4, generator).position) for _ in range(6_000)], 24) < LIMIT[23]


def test_tokens_cannot_exchange_more_places_than_there_are() -> None:
    with pytest.raises(ValueError, match="larger"):
        tokens(4, 5, draw())


@pytest.mark.parametrize(("length", "rho"), [(12, 4), (13, 4), (3, 8), (10, 3)])
def test_window_never_leaves_a_window(length: int, rho: int) -> None:
    for seed in range(50):
        order = window(length, rho, draw(seed))
        assert ((order.position - 1) // rho == np.arange(length) // rho).all()
        assert order.singletons


def test_windows_are_shuffled_apart() -> None:
    generator = draw(3)
    assert chi_square([tuple(window(4, 2, generator).position) for _ in range(4_000)], 4) < LIMIT[3]


def test_masked_diffusion_has_independent_uniform_blocks() -> None:
    generator = draw(4)
    found = [tuple(blocks_in_text(masked_diffusion(2, 2, generator))) for _ in range(4_000)]
    assert set(found) == set(itertools.product((1, 2), repeat=2))
    assert chi_square(found, 4) < LIMIT[3]
    flat = blocks_in_text(masked_diffusion(24_000, 24, generator))
    assert (flat.min(), flat.max()) == (1, 24)
    assert chi_square(flat.tolist(), 24) < LIMIT[23]


def test_masked_diffusion_in_one_step_is_all_at_once() -> None:
    assert masked_diffusion(6, 1, draw()).block.tolist() == [1] * 6


def test_block_diffusion_by_its_windows() -> None:
    """11 places in windows of 4, 4 and 3: each window's blocks lie between those of its neighbours."""
    for steps in (1, 3, 4):
        for seed in range(20):
            blocks = blocks_in_text(block_diffusion(11, 4, steps, draw(seed)))
            assert ((blocks - 1) // steps == np.arange(11) // 4).all()


def test_block_diffusion_is_masked_diffusion_inside() -> None:
    generator = draw(5)
    found = [tuple(blocks_in_text(block_diffusion(4, 2, 2, generator))[2:]) for _ in range(4_000)]
    assert set(found) == {(3, 3), (3, 4), (4, 3), (4, 4)}
    assert chi_square(found, 4) < LIMIT[3]


def test_ends_of_block_diffusion() -> None:
    assert block_diffusion(7, 1, 1, draw()).position.tolist() == left_to_right(7).position.tolist()
    assert block_diffusion(7, 1, 1, draw()).singletons
    one, other = block_diffusion(7, 7, 5, draw(6)), masked_diffusion(7, 5, draw(6))
    assert np.array_equal(one.position, other.position)
    assert np.array_equal(one.block, other.block)


@pytest.mark.parametrize(("length", "size"), [(12, 3), (13, 4), (5, 1), (5, 9)])
def test_blocks_of_an_order(length: int, size: int) -> None:
    order = any_order(length, draw(7))
    together = in_blocks(order, size)
    _, widths = np.unique(together.block, return_counts=True)
    assert (widths[:-1] == size).all()
    assert 1 <= widths[-1] <= size
    for number, start in enumerate(range(0, length, size), start=1):
        # The same tokens, inside a block in the sequence of the text.
        assert together.position[together.block == number].tolist() == sorted(order.position[start : start + size])


def test_blocks_of_one_change_nothing() -> None:
    order = any_order(9, draw())
    same = in_blocks(order, 1)
    assert np.array_equal(order.position, same.position)
    assert np.array_equal(order.block, same.block)
