"""The schedule as stretches, linear growth, mixtures, block sizes: all a function of settings, step and sample."""

import itertools
from typing import Any

import numpy as np
import pytest

from armd_dist.orders.config import OrdersConfig
from armd_dist.orders.curriculum import Position, Stretch, draw_order, phases, position_at
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import in_blocks, left_to_right

LENGTH = 24
PLAIN = tuple(range(1, LENGTH + 1))
SHUFFLED = {"keep_left_to_right": 0.0}
BLOCKS = {"block_length": 8, "block_steps": 3}


def orders(**settings: Any) -> OrdersConfig:
    return OrdersConfig.model_validate(settings)


def drawn(config: OrdersConfig, position: Position, samples: int = 400, seed: int = 0) -> list[Order]:
    return [draw_order(config, position, LENGTH, seed, sample) for sample in range(samples)]


def same(one: Order, other: Order) -> bool:
    return np.array_equal(one.position, other.position) and np.array_equal(one.block, other.block)


CONFIGS = [
    orders(left_to_right_steps=7, progressive_steps=23, rho_max=16),
    orders(left_to_right_steps=7, progressive_steps=23, rho_max=9, rho_growth="linear", strided_from=31),
    orders(left_to_right_steps=0, progressive_steps=3, rho_max=30, rho_growth="linear", strided_from=55),
    orders(left_to_right_steps=5, progressive_steps=0, rho_max=8, strided_from=5),
    orders(left_to_right_steps=5, progressive_steps=40, rho_max=8, strided_from=20),
    orders(left_to_right_steps=0, strided_from=0),
    orders(left_to_right_steps=3, mixture={"any_order": 1}, strided_from=20),
    orders(left_to_right_steps=0, mixture={"any_order": 1}),
]


@pytest.mark.parametrize("total", [1, 6, 30, 60])
@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_phases_are_the_positions_of_all_steps(config: OrdersConfig, total: int) -> None:
    rows = phases(config, total)
    spread = [(row.phase, row.rho) for row in rows for _ in range(row.first, row.last + 1)]
    positions = [position_at(config, step) for step in range(total)]
    assert spread == [(position.phase, position.rho) for position in positions]
    assert [row.first for row in rows] == [0, *(row.last + 1 for row in rows[:-1])]
    assert all(one[2:] != other[2:] for one, other in itertools.pairwise(rows))


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_each_change_is_a_stage_of_its_own(config: OrdersConfig) -> None:
    positions = [position_at(config, step) for step in range(80)]
    stages = [position.stage for position in positions]
    assert stages == sorted(stages)
    assert len(set(stages)) == len({(position.phase, position.rho) for position in positions})


def test_phases_of_the_quickstart() -> None:
    config = orders(left_to_right_steps=220, progressive_steps=300, rho_max=16, strided_from=600)
    assert phases(config, 800) == [
        Stretch(0, 219, "left_to_right", 1),
        Stretch(220, 294, "progressive", 2),
        Stretch(295, 369, "progressive", 4),
        Stretch(370, 444, "progressive", 8),
        Stretch(445, 599, "progressive", 16),
        Stretch(600, 799, "strided", 1),
    ]


def test_long_runs_cost_nothing() -> None:
    assert len(phases(orders(strided_from=50_000), 10**12)) == 7


def test_linear_growth_in_equal_parts() -> None:
    config = orders(left_to_right_steps=100, progressive_steps=44, rho_max=12, rho_growth="linear")
    rows = phases(config, 1_000)[1:]
    assert [row.rho for row in rows] == list(range(2, 13))
    assert [row.last - row.first + 1 for row in rows[:-1]] == [4] * 10
    assert [position_at(config, row.first).stage for row in rows] == list(range(1, 12))


def test_linear_rho_need_be_no_power_of_two() -> None:
    config = orders(left_to_right_steps=0, progressive_steps=10, rho_max=3, rho_growth="linear", strided_from=10)
    assert [position_at(config, step).rho for step in (0, 4, 5, 9)] == [2, 2, 3, 3]
    assert position_at(config, 10) == Position("strided", 1, 3)


@pytest.mark.parametrize("counts", ["segments", "tokens", "window"])
def test_what_rho_counts(counts: str) -> None:
    config = orders(rho_counts=counts, **SHUFFLED)
    rho = 4
    for order in drawn(config, Position("progressive", rho, 2), 100):
        moved = order.position != np.array(PLAIN)
        breaks = int((np.diff(order.position) != 1).sum())
        windows = (order.position - 1) // rho == np.arange(LENGTH) // rho
        assert order.singletons
        assert {"segments": breaks < rho, "tokens": moved.sum() <= rho, "window": windows.all()}[counts]


@pytest.mark.parametrize("changes", [
    {}, {"rho_counts": "tokens"}, {"rho_counts": "window"}, {"block_sizes": [1, 2, 4]},
    {"mixture": {"any_order": 1.0, "masked_diffusion": 2.0, "block_diffusion": 1.0, "strided": 1.0}} | BLOCKS,
])  # fmt: skip
def test_a_step_has_the_same_orders_however_it_is_reached(changes: dict[str, Any]) -> None:
    """Sharded over ranks, resumed, drawn backwards or alone: settings, seed, sample and step are all that counts."""
    config = orders(left_to_right_steps=2, progressive_steps=4, rho_max=4, strided_from=7, **changes)
    batch, seed = 8, 5

    def run(first: int, last: int, ranks: int) -> dict[int, Order]:
        found = {}
        for rank in reversed(range(ranks)):
            share = batch // ranks
            for step in range(first, last):
                for sample in range(step * batch + rank * share, step * batch + (rank + 1) * share):
                    found[sample] = draw_order(config, position_at(config, step), LENGTH, seed, sample)
        return found

    whole, split, resumed = run(0, 9, 1), run(0, 9, 4), run(5, 9, 2)
    assert all(same(whole[sample], split[sample]) for sample in whole)
    assert all(same(whole[sample], resumed[sample]) for sample in resumed)


@pytest.mark.parametrize("other", [(1, 0, 1), (0, 1, 1), (0, 0, 2)])
def test_seed_sample_and_stage_each_matter_in_a_mixture(other: tuple[int, int, int]) -> None:
    config = orders(mixture={"any_order": 1})
    seed, sample, stage = other
    one = draw_order(config, Position("mixture", 1, 1), LENGTH, 0, 0)
    assert not same(one, draw_order(config, Position("mixture", 1, stage), LENGTH, seed, sample))


def scheme_of(order: Order) -> str:
    """Which of the schemes of the test below an order came from."""
    if not order.singletons:
        return "masked_diffusion" if order.block.max() > 100 else "strided"
    return "left_to_right" if tuple(order.position) == PLAIN else "any_order"


def test_shares_of_a_mixture() -> None:
    weights = {"left_to_right": 1, "any_order": 3, "masked_diffusion": 2, "strided": 2}
    config = orders(mixture=weights, diffusion_steps=150, strided_streams=[4])
    found = [scheme_of(order) for order in drawn(config, Position("mixture", 1, 1), 2_000)]
    # 24 tokens fall into 24 different of 150 steps in 14 % of draws, and then look like any order.
    alone = float(np.prod(1 - np.arange(24) / 150))
    expected = {"left_to_right": 1, "any_order": 3 + 2 * alone, "masked_diffusion": 2 * (1 - alone), "strided": 2}
    for name, weight in expected.items():
        assert found.count(name) / 2_000 == pytest.approx(weight / 8, abs=0.035)


@pytest.mark.parametrize(("changes", "blocks"), [
    ({"mixture": {"left_to_right": 1}}, range(1, 25)),
    ({"mixture": {"masked_diffusion": 1}, "diffusion_steps": 3}, range(1, 4)),
    ({"mixture": {"block_diffusion": 1}} | BLOCKS, range(1, 10)),
    ({"mixture": {"block_diffusion": 1}, "block_length": 8}, range(1, 25)),
    ({"mixture": {"strided": 1}, "strided_streams": [2]}, range(1, 14)),
])  # fmt: skip
def test_settings_of_each_scheme_of_a_mixture(changes: dict[str, Any], blocks: range) -> None:
    found = drawn(orders(**changes), Position("mixture", 1, 1), 100)
    assert set(np.concatenate([order.block for order in found]).tolist()) == set(blocks)


def test_block_sizes_are_drawn_alike_and_keep_the_shuffle() -> None:
    position = Position("progressive", 8, 3)
    single = drawn(orders(**SHUFFLED), position, 900)
    mixed = drawn(orders(block_sizes=[1, 2, 5], **SHUFFLED), position, 900)
    sizes = [int(np.bincount(order.block).max()) for order in mixed]
    assert min(sizes.count(size) for size in (1, 2, 5)) > 250
    assert set(sizes) == {1, 2, 5}
    assert all(same(in_blocks(one, size), other) for one, size, other in zip(single, sizes, mixed, strict=True))


def test_one_block_size_is_taken_always() -> None:
    found = drawn(orders(block_sizes=[3], **SHUFFLED), Position("progressive", 8, 3), 50)
    assert all(np.bincount(order.block)[1:].tolist() == [3] * 8 for order in found)


def test_what_stays_left_to_right_stays_one_at_a_time() -> None:
    config = orders(block_sizes=[4], keep_left_to_right=0.5)
    found = drawn(config, Position("progressive", 8, 3))
    kept = [order for order in found if order.singletons]
    assert len(kept) / 400 == pytest.approx(0.5, abs=0.08)
    assert all(same(order, left_to_right(LENGTH)) for order in kept)


@pytest.mark.parametrize(("changes", "position", "block"), [
    ({"rho_counts": "tokens"}, [2, 1, 3, 4, 8, 6, 7, 5], range(1, 9)),
    ({"rho_counts": "window"}, [2, 3, 1, 4, 7, 6, 5, 8], range(1, 9)),
    ({"block_sizes": [3]}, [1, 3, 4, 2, 7, 8, 5, 6], [1, 1, 1, 2, 2, 2, 3, 3]),
    ({"mixture": {"any_order": 1}}, [1, 8, 7, 4, 3, 6, 5, 2], range(1, 9)),
    ({"mixture": {"left_to_right": 1, "masked_diffusion": 3}, "diffusion_steps": 4},
     [1, 6, 4, 5, 2, 3, 7, 8], [1, 1, 2, 2, 3, 3, 4, 4]),
    ({"mixture": {"block_diffusion": 1}, "block_length": 3}, [2, 3, 1, 6, 4, 5, 8, 7], [1, 1, 3, 4, 5, 5, 7, 8]),
])  # fmt: skip
def test_known_draws_stay_what_they_are(changes: dict[str, Any], position: list[int], block: list[int]) -> None:
    """Frozen: a change here changes every resumed run."""
    config = orders(**changes, **SHUFFLED)
    at = Position("mixture", 1, 1) if config.mixture else Position("progressive", 4, 2)
    order = draw_order(config, at, 8, 0, 0)
    assert order.position.tolist() == position
    assert order.block.tolist() == list(block)


def test_equal_mixtures_draw_alike_however_written() -> None:
    one, other = (
        orders(mixture={"any_order": 1, "left_to_right": 1}),
        orders(mixture={"left_to_right": 1, "any_order": 1}),
    )
    assert one == other
    at = Position("mixture", 1, 1)
    assert all(same(a, b) for a, b in zip(drawn(one, at, 50), drawn(other, at, 50), strict=True))
