"""What a masked-diffusion denoiser has to name: in each window a number of places uniform on 1..width."""

import itertools
import math

import numpy as np
import pytest

from armd_dist.orders.masking import masked_places

DRAWS = 6_000
# Chi-square values that a true null exceeds once in 10,000 draws, by degrees of freedom; the seeds are fixed.
LIMIT = {1: 15.1, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9}


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def drawn(length: int, block_length: int) -> np.ndarray:
    """[DRAWS, length] from one generator."""
    generator = np.random.default_rng(11)
    return np.stack([masked_places(length, block_length, generator) for _ in range(DRAWS)])


@pytest.mark.parametrize(("length", "block_length"), [(1, 1), (1, 5), (7, 1), (7, 3), (8, 4), (7, 7), (7, 20)])
def test_every_window_masks_some_place(length: int, block_length: int) -> None:
    masks = drawn(length, block_length)[:500]
    assert masks.shape == (500, length)
    assert masks.dtype == np.bool_
    for start in range(0, length, block_length):
        assert masks[:, start : start + block_length].any(axis=1).all()


@pytest.mark.parametrize(("length", "block_length"), [(7, 7), (7, 20), (9, 5), (12, 6)])
def test_the_number_of_masked_places_is_uniform(length: int, block_length: int) -> None:
    masks = drawn(length, block_length)
    for start in range(0, length, block_length):
        width = min(block_length, length - start)
        counts = np.bincount(masks[:, start : start + width].sum(axis=1), minlength=width + 1)
        assert counts[0] == 0
        assert chi_square(counts[1:]) < LIMIT[width - 1]


def test_every_subset_of_a_size_is_as_likely() -> None:
    masks = drawn(4, 4)
    for size in range(1, 4):
        subsets = [tuple(np.flatnonzero(mask).tolist()) for mask in masks if mask.sum() == size]
        counts = np.array([subsets.count(wanted) for wanted in itertools.combinations(range(4), size)])
        assert chi_square(counts) < LIMIT[math.comb(4, size) - 1]


def test_windows_are_drawn_apart() -> None:
    """The pair of two windows' counts is uniform on the pairs, and on more than the diagonal."""
    masks = drawn(4, 2)
    pairs = (masks[:, :2].sum(axis=1) - 1) * 2 + masks[:, 2:].sum(axis=1) - 1
    assert chi_square(np.bincount(pairs, minlength=4)) < LIMIT[3]


def test_weights_make_it_the_integral_over_time() -> None:
    """int_0^1 1/t P(exactly this set masked | t) dt = P(drawn) * width / size, for every size: the NELBO's weights."""
    width, steps = 5, 200_000
    t = (np.arange(steps) + 0.5) / steps
    for size in range(1, width + 1):
        integral = float(np.mean(t ** (size - 1) * (1 - t) ** (width - size)))
        chance = 1 / width / math.comb(width, size)
        assert integral == pytest.approx(chance * width / size, rel=1e-8)


def test_masks_are_a_function_of_the_generator() -> None:
    one, same, other = (masked_places(64, 16, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
