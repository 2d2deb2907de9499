"""Progressive permutation training: which orders a step trains on. A pure function of the settings and the step."""

from dataclasses import dataclass

import numpy as np

from armd_dist.orders.config import OrdersConfig
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import left_to_right, segments, strided

LEFT_TO_RIGHT, PROGRESSIVE, STRIDED = "left_to_right", "progressive", "strided"


@dataclass(frozen=True)
class Position:
    """Where training stands in the curriculum.

    phase: left_to_right, progressive or strided; rho: shuffled segments (1 outside the progressive phase);
    stage: counts the changes so far, and keys the random draws.
    """

    phase: str
    rho: int
    stage: int


def position_at(config: OrdersConfig, step: int) -> Position:
    """The curriculum's position at `step` (0-based).

    rho doubles from 2 to rho_max over progressive_steps in equal parts and stays there until strided_from.
    """
    levels = int(config.rho_max).bit_length() - 1
    if config.strided_from is not None and step >= config.strided_from:
        return Position(STRIDED, 1, levels + 1)
    into = step - config.left_to_right_steps
    if into < 0:
        return Position(LEFT_TO_RIGHT, 1, 0)
    ramp = config.progressive_steps
    level = min(levels, 1 + into * levels // ramp) if ramp else levels
    return Position(PROGRESSIVE, 2**level, level)


def draw_order(config: OrdersConfig, position: Position, length: int, seed: int, sample: int) -> Order:
    """The order of one training sample, from (seed, global sample index, curriculum position) and nothing else.

    Rank, step timing and earlier draws do not enter, so every topology and every resumed run sees the same order.
    """
    if position.phase == LEFT_TO_RIGHT:
        return left_to_right(length)
    key = np.random.SeedSequence((seed, sample, position.stage))
    generator = np.random.Generator(np.random.Philox(key))
    if position.phase == STRIDED:
        return strided(length, int(generator.choice(config.strided_streams)))
    if generator.random() < config.keep_left_to_right:
        return left_to_right(length)
    return segments(length, position.rho, generator)
