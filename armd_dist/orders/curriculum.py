"""Progressive permutation training: which orders a step trains on. A pure function of the settings and the step."""

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from armd_dist.orders.config import OrdersConfig
from armd_dist.orders.generators import generators
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import (
    any_order,
    block_diffusion,
    in_blocks,
    left_to_right,
    masked_diffusion,
    segments_as,
    strided,
    tokens,
    window,
)

LEFT_TO_RIGHT, PROGRESSIVE, MIXTURE, STRIDED = "left_to_right", "progressive", "mixture", "strided"
SHUFFLES = {"tokens": tokens, "window": window}


@dataclass(frozen=True)
class Position:
    """Where training stands in the curriculum.

    phase: left_to_right, progressive, mixture or strided; rho: as `rho_counts` says (1 outside the progressive phase);
    stage: counts the changes so far, and keys the random draws.
    """

    phase: str
    rho: int
    stage: int


class Stretch(NamedTuple):
    """Steps `first` to `last` (0-based, both included) of one phase and one rho."""

    first: int
    last: int
    phase: str
    rho: int


def position_at(config: OrdersConfig, step: int) -> Position:
    """The curriculum's position at `step` (0-based).

    rho grows from 2 to rho_max over progressive_steps in equal parts and stays there until strided_from. A mixture
    takes the place of all that, as one stage.
    """
    levels = _levels(config)
    if config.strided_from is not None and step >= config.strided_from:
        return Position(STRIDED, 1, levels + 1)
    into = step - config.left_to_right_steps
    if into < 0:
        return Position(LEFT_TO_RIGHT, 1, 0)
    if config.mixture is not None:
        return Position(MIXTURE, 1, levels)
    ramp = config.progressive_steps
    level = min(levels, 1 + into * levels // ramp) if ramp else levels
    return Position(PROGRESSIVE, 2**level if config.rho_growth == "doubling" else 1 + level, level)


def _levels(config: OrdersConfig) -> int:
    """Stages between the left-to-right and the strided phase."""
    if config.mixture is not None:
        return 1
    return config.rho_max.bit_length() - 1 if config.rho_growth == "doubling" else config.rho_max - 1


def phases(config: OrdersConfig, total_steps: int) -> list[Stretch]:
    """The schedule of `total_steps` steps: stretches without a change, one behind the other, none empty."""
    start, ramp, levels = config.left_to_right_steps, config.progressive_steps, _levels(config)
    # Level 1 + k starts at the first step with k <= into * levels / ramp: rounded up.
    changes = {0, config.strided_from or 0, *(start - (-k * ramp // levels) for k in range(levels))}
    firsts = sorted(step for step in changes if step < total_steps)
    rows: list[Stretch] = []
    for first, end in itertools.pairwise([*firsts, total_steps]):
        position = position_at(config, first)
        if rows and rows[-1][2:] == (position.phase, position.rho):
            first = rows.pop().first
        rows.append(Stretch(first, end - 1, position.phase, position.rho))
    return rows


def draw_order(config: OrdersConfig, position: Position, length: int, seed: int, sample: int) -> Order:
    """The order of one training sample, as `draw_orders` draws it."""
    return draw_orders(config, position, length, seed, [sample])[0]


def draw_orders(
    config: OrdersConfig, position: Position, length: int, seed: int, samples: Sequence[int]
) -> list[Order]:
    """The order of each training sample, from (seed, global sample index, curriculum position) and nothing else.

    Rank, step timing and earlier draws do not enter, so every topology and every resumed run sees the same orders.
    Orders may share arrays: they are there to be read.
    """
    if position.phase == LEFT_TO_RIGHT:
        return [left_to_right(length)] * len(samples)
    drawn = generators(seed, samples, position.stage)
    if position.phase == STRIDED:
        made = {streams: strided(length, streams) for streams in config.strided_streams}
        return [made[_streams(config, generator)] for generator in drawn]
    if position.phase == MIXTURE:
        return [_mixed(config, length, generator) for generator in drawn]
    return _progressive(config, position.rho, length, drawn)


def _progressive(config: OrdersConfig, rho: int, length: int, drawn: Iterable[np.random.Generator]) -> list[Order]:
    plain, orders, sizes = left_to_right(length), [], {}
    in_segments: list[int] = []  # rows of the batch, and one after another the sequences of their segments
    unshuffled, shuffled = list(range(rho)), array("q")
    for row, generator in enumerate(drawn):
        orders.append(plain)
        if generator.random() < config.keep_left_to_right:
            continue
        if config.rho_counts == "segments":
            in_segments.append(row)
            places = unshuffled[:]
            generator.shuffle(places)  # a list's shuffle draws what an array's does, in half of the time
            shuffled.fromlist(places)
        else:
            orders[row] = SHUFFLES[config.rho_counts](length, rho, generator)
        # Without a choice nothing is drawn, and the size comes last: it never changes which way tokens are shuffled.
        if config.block_sizes != [1]:
            sizes[row] = config.block_sizes[int(generator.integers(len(config.block_sizes)))]
    # All texts of the batch at once, several times as fast.
    for row, order in zip(in_segments, segments_as(length, np.array(shuffled).reshape(-1, rho)), strict=True):
        orders[row] = order
    for row, size in sizes.items():
        orders[row] = in_blocks(orders[row], size)
    return orders


def _mixed(config: OrdersConfig, length: int, generator: np.random.Generator) -> Order:
    mixture = sorted((config.mixture or {}).items())  # by name: settings that are equal draw alike
    weights = np.array([weight for _, weight in mixture])
    drawn = int(generator.choice(len(weights), p=weights / weights.sum())) if len(weights) > 1 else 0
    match mixture[drawn][0]:
        case "left_to_right":
            return left_to_right(length)
        case "any_order":
            return any_order(length, generator)
        case "masked_diffusion":
            return masked_diffusion(length, config.diffusion_steps, generator)
        case "block_diffusion":
            width = config.block_length or length
            return block_diffusion(length, width, config.block_steps or width, generator)
        case "strided":
            return strided(length, _streams(config, generator))


def _streams(config: OrdersConfig, generator: np.random.Generator) -> int:
    return config.strided_streams[int(generator.integers(len(config.strided_streams)))]
