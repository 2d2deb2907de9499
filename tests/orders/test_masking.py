"""What a masked-diffusion denoiser has to name: in each window a number of places uniform on 1..width."""

import itertools
import math

import numpy as np
import pytest
import torch

from armd_dist.objectives.masked_diffusion import nelbo_weights
from armd_dist.orders.masking import masked_places

DRAWS = 6_000
# Chi-square values that a true null exceeds once in 10,000 draws, by degrees of freedom; the seeds are fixed.
LIMIT = {1: 15.1, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9}


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def drawn(length: int, block_length: int) -> np.ndarray:
    """[DRAWS, length], of the samples 0, 1, 2 ..."""
    return np.stack([masked_places(length, block_length, seed=11, sample=sample) for sample in range(DRAWS)])


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


def test_neighbouring_samples_spread_their_numbers_evenly() -> None:
    """Among any 16 samples in a row each quarter of 1..32 is there at least 3 times, and at most 5 times."""
    counts = drawn(32, 32).sum(axis=1) - 1
    for first in range(0, DRAWS - 16, 7):
        quarters = np.bincount(counts[first : first + 16] // 8, minlength=4)
        assert quarters.min() >= 3
        assert quarters.max() <= 5


def test_windows_have_offsets_of_their_own() -> None:
    counts = drawn(64, 16).reshape(DRAWS, 4, 16).sum(axis=2)
    assert len({tuple(column) for column in counts[:50].T}) == 4


def test_weights_make_it_the_integral_over_time() -> None:
    """For every set of k of 5 places: chance to be drawn x weight = the integral over t of 1/t x its chance at t."""
    width, steps = 5, 200_000
    t = (np.arange(steps) + 0.5) / steps
    for hidden in itertools.product([False, True], repeat=width):
        k = sum(hidden)
        if not k:
            continue
        integral = float(np.mean(t**k * (1 - t) ** (width - k) / t))
        weights = nelbo_weights(torch.tensor([hidden]), width)[0]
        assert set(weights[~torch.tensor(hidden)].tolist()) <= {0.0}
        for weight in weights[torch.tensor(hidden)].tolist():
            assert weight / width / math.comb(width, k) == pytest.approx(integral, rel=1e-8)


def test_masks_are_a_function_of_seed_and_sample() -> None:
    one, same = (masked_places(64, 16, seed=3, sample=5) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, masked_places(64, 16, seed=4, sample=5))
    assert not np.array_equal(one, masked_places(64, 16, seed=3, sample=6))
