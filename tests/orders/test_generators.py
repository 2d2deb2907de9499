"""The generators of a batch are NumPy's own, seeded one by one: to the last bit, whatever the size of the numbers."""

import numpy as np
import pytest

from armd_dist.orders.config import OrdersConfig
from armd_dist.orders.curriculum import Position, draw_order, draw_orders
from armd_dist.orders.generators import generators

SAMPLES = [0, 1, 7, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 10**12, 2**63 - 1, 3]


@pytest.mark.parametrize("seed", [0, 1, 1234, 2**32 - 1, 2**32, 2**63, 2**70, 2**130 + 5])
@pytest.mark.parametrize("stage", [0, 6, 2**32, 2**100])
def test_each_is_numpys(seed: int, stage: int) -> None:
    for sample, found in zip(SAMPLES, generators(seed, SAMPLES, stage), strict=True):
        wanted = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, sample, stage))))
        for draw in (lambda g: g.integers(5), lambda g: g.random(3), lambda g: g.permutation(20)):
            np.testing.assert_array_equal(draw(found), draw(wanted))


def test_a_half_used_generator_leaves_nothing_to_the_next() -> None:
    """32-bit draws keep the other half of a word, and blocks of 4 words a rest."""
    drawn = generators(0, [1, 2], 0)
    next(drawn).integers(5, dtype=np.uint32)
    wanted = np.random.Generator(np.random.Philox(np.random.SeedSequence((0, 2, 0))))
    assert next(drawn).integers(1 << 30, dtype=np.uint32) == wanted.integers(1 << 30, dtype=np.uint32)


def test_segments_are_shuffled_as_numpy_permutes() -> None:
    config, rho, samples = OrdersConfig(keep_left_to_right=0), 5, range(1000, 1040)
    for sample, order in zip(
        samples, draw_orders(config, Position("progressive", rho, 2), 20, 5, samples), strict=True
    ):
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((5, sample, 2))))
        generator.random()  # whether to keep left to right
        wanted = generator.permutation(rho)[:, None] * 4 + np.arange(1, 5)
        np.testing.assert_array_equal(order.position, wanted.ravel())


@pytest.mark.parametrize("phase", ["left_to_right", "progressive", "strided", "mixture"])
def test_a_batch_of_orders_is_each_alone(phase: str) -> None:
    config = OrdersConfig(mixture={"any_order": 1, "masked_diffusion": 1, "strided": 1}, diffusion_steps=8)
    samples = list(range(2**32 - 20, 2**32 + 20))
    for sample, order in zip(samples, draw_orders(config, Position(phase, 4, 2), 30, 5, samples), strict=True):
        alone = draw_order(config, Position(phase, 4, 2), 30, 5, sample)
        np.testing.assert_array_equal(order.position, alone.position)
        np.testing.assert_array_equal(order.block, alone.block)
