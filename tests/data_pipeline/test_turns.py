"""Turns follow the weights at every sample, change with them, and are found without replay."""

import random
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest

from data_pipeline.turns import Turns

Weights = Sequence[dict[int, float]]
CONSTANT: dict[str, Weights] = {
    "one": [{0: 5}],
    "halves": [{0: 1}, {0: 1}],
    "tenths": [{0: 0.1}, {0: 0.7}, {0: 0.2}],
    "rare": [{0: 1}, {0: 1e-3}, {0: 2}, {0: 1e-3}, {0: 1}],
    "sixteen": [{0: 1 + k % 5} for k in range(16)],
}
CHANGING: dict[str, Weights] = {
    "switch": [{0: 3, 500: 1}, {0: 1}],
    "annealed": [{0: 9, 400: 5, 800: 0}, {0: 1, 400: 3}, {0: 0, 800: 6, 900: 1}],
    "off_and_on": [{0: 1, 10: 0, 20: 1, 30: 0, 977: 4}, {0: 1}, {0: 2, 15: 0, 35: 2}, {0: 0, 20: 0.5}],
}
SAMPLES = 2000


def targets(weights: Weights, samples: int) -> np.ndarray:
    """What the weights ask for after 0, 1, ... samples: float64 [samples + 1, datasets]. Summed exactly."""
    rows = [[Fraction(0)] * len(weights)]
    for sample in range(samples):
        now = [Fraction(str(points[max(k for k in points if k <= sample)])) for points in weights]
        rows.append([row + weight / sum(now) for row, weight in zip(rows[-1], now, strict=True)])
    return np.array(rows, dtype=np.float64)


def tally(turns: Turns, samples: int) -> np.ndarray:
    """Counts after 0, 1, ... samples, by going through all of them: int64 [samples + 1, datasets]."""
    datasets, before = turns.turns(np.arange(samples))
    counts = np.zeros((samples + 1, turns.size), dtype=np.int64)
    counts[np.arange(1, samples + 1), datasets] = 1
    counts = counts.cumsum(axis=0)
    np.testing.assert_array_equal(before, counts[np.arange(samples), datasets])  # none skipped, none repeated
    return counts


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_weights_are_kept_at_every_sample(name: str) -> None:
    weights = CONSTANT[name]
    apart = np.abs(tally(Turns(weights), SAMPLES) - targets(weights, SAMPLES))
    assert apart.max() <= np.ceil(np.log2(len(weights))) / 2 + 1e-9


@pytest.mark.parametrize("name", CHANGING)
def test_changing_weights_are_kept_at_every_sample(name: str) -> None:
    weights = CHANGING[name]
    counts = tally(Turns(weights), SAMPLES)
    assert np.abs(counts - targets(weights, SAMPLES)).max() < 2
    if name == "annealed":
        assert counts[800, 2] == 0
        assert counts[800, 0] == counts[-1, 0]


@pytest.mark.parametrize("datasets", [2, 3, 8])
def test_errors_do_not_add_up_over_a_hundred_changes(datasets: int) -> None:
    draw = random.Random(datasets)
    starts = sorted(draw.sample(range(1, SAMPLES), 100))
    weights: Weights = [
        {start: draw.choice([0, 0.3, 1, 2, 7, 50]) for start in [0, *starts]} for _ in range(datasets - 1)
    ]
    weights = [*weights, {0: 1}]
    assert np.abs(tally(Turns(weights), SAMPLES) - targets(weights, SAMPLES)).max() < 3


@pytest.mark.parametrize("weights", [*CONSTANT.values(), *CHANGING.values()])
def test_counts_agree_with_going_through_all(weights: Weights) -> None:
    turns = Turns(weights)
    counts = tally(turns, SAMPLES)
    for samples in [0, 1, 10, 399, 400, 401, 799, 800, 900, 977, SAMPLES]:
        assert turns.counts(samples) == counts[samples].tolist()


def test_any_sample_at_once_and_in_any_order() -> None:
    turns = Turns(CHANGING["annealed"])
    datasets, before = turns.turns(np.arange(SAMPLES))
    shuffled = np.random.default_rng(0).permutation(SAMPLES)
    found = turns.turns(shuffled)
    np.testing.assert_array_equal(found[0], datasets[shuffled])
    np.testing.assert_array_equal(found[1], before[shuffled])


def test_a_billion_samples_in() -> None:
    """The counts there are the weights' share, and the next samples go on from them."""
    changes = [10**8, 5 * 10**8, 10**9]
    weights: Weights = [{0: 0.7, changes[0]: 0.2}, {0: 0.1}, {0: 0.2, changes[1]: 3}, {0: 0, changes[2]: 1}]
    turns = Turns(weights)
    counts = turns.counts(10**9)
    shares = np.array([[0.7, 0.1, 0.2], [0.4, 0.2, 0.4], [0.2 / 3.3, 0.1 / 3.3, 3 / 3.3]])
    np.testing.assert_allclose(counts[:3], np.array([1, 4, 5]) * 1e8 @ shares, rtol=0, atol=2)
    assert counts[3] == 0
    for sample in range(10**9, 10**9 + 100):
        dataset, before = turns.turn(sample)
        assert before == counts[dataset]
        counts[dataset] += 1
    assert counts == turns.counts(10**9 + 100)


def test_values_are_pinned() -> None:
    """A change here changes the order of every run in progress."""
    datasets, _ = Turns([{0: 3, 8: 1}, {0: 1}, {0: 2}]).turns(np.arange(16))
    assert datasets.tolist() == [0, 2, 0, 1, 0, 2, 0, 2, 1, 0, 2, 2, 1, 0, 2, 2]


@pytest.mark.parametrize("weights", [[{0: -1}, {0: 2}], [{0: 1, 5: 0}, {0: 0}]])
def test_weights_that_share_nothing_out(weights: Weights) -> None:
    with pytest.raises(ValueError, match="weights from sample"):
        Turns(weights)
