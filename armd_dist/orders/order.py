"""Generation orders as plain integers: where each token stands in the text and when it is revealed."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Order(NamedTuple):
    """One sequence's order, stored in the sequence of revelation.

    position: [n] places in the text, 1..n, in the order in which they are revealed (place 0 is BOS and not listed).
    block: [n] when each is revealed: non-decreasing, from 1. Tokens of one block are revealed together.
    """

    position: Integers
    block: Integers

    @property
    def singletons(self) -> bool:
        """Whether every block holds one token: attention then needs no mask."""
        return bool((np.diff(self.block) > 0).all())


def from_blocks(block_of_place: Integers) -> Order:
    """The order of a text whose place n (0-based here) belongs to block `block_of_place[n]`; ties keep text order."""
    reveal = np.argsort(block_of_place, kind="stable")
    return Order(reveal + 1, block_of_place[reveal])


def from_permutation(reveal: Integers) -> Order:
    """One token at a time: `reveal[t]` is the 0-based place revealed t-th."""
    return Order(reveal + 1, np.arange(1, len(reveal) + 1))
