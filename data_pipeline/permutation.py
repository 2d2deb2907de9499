"""A keyed permutation evaluated point by point: shuffling any number of items without storing their order."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

SHIFTS = tuple(map(np.uint64, (30, 27, 31)))
MULTIPLIERS = tuple(map(np.uint64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)))
TOGETHER = 1024  # positions: neighbours are asked for soon, and many cost little more than one
ROUNDS = 8  # four times over each half; fewer leave visible structure in small domains


class Permutation:
    """A pseudo-random bijection of `range(size)`, fixed by `key`, in constant memory.

    A Feistel network permutes the smallest power of two that holds `size`; a value that falls outside the range is
    sent through again until it lands inside (cycle walking), under two rounds on average, which keeps it a bijection.
    The values depend on (size, key) alone, on every machine and in every version.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        """`size` >= 1 items; `key`: integers of any size, such as (seed, epoch). `ValueError` for an empty range."""
        if size < 1:
            raise ValueError(f"a permutation needs at least one item, got {size}")
        self.size = size
        bits = (size - 1).bit_length()
        self._low_bits = np.uint64(bits // 2)
        self._low_mask = np.uint64((1 << bits // 2) - 1)
        self._high_mask = np.uint64((1 << bits - bits // 2) - 1)
        digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Items at `positions`: int64 of any shape in, int64 of that shape out. `IndexError` outside `range(size)`."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and not 0 <= positions.min() <= positions.max() < self.size:
            raise IndexError(f"positions {positions.min()} to {positions.max()} leave range({self.size})")
        items = self._shuffle(positions.ravel().astype(np.uint64))
        outside = np.flatnonzero(items >= self.size)
        while outside.size:
            items[outside] = self._shuffle(items[outside])
            outside = outside[items[outside] >= self.size]
        return items.astype(np.int64).reshape(positions.shape)

    def _shuffle(self, values: np.ndarray) -> np.ndarray:
        """One pass of the network over uint64 `values`. The halves may differ by one bit, hence their own masks."""
        low, high = values & self._low_mask, values >> self._low_bits
        for first, second in zip(self._keys[::2], self._keys[1::2], strict=True):
            high ^= _mix(low + first) & self._high_mask
            low ^= _mix(high + second) & self._low_mask
        return (high << self._low_bits) | low


def items_at(size: int, key: tuple[int, ...], positions: np.ndarray) -> np.ndarray:
    """`Permutation(size, key)` at `positions` [k] of its range, int64; fastest where they are near one another."""
    out = np.empty_like(positions)
    numbers, places = np.divmod(positions, TOGETHER)
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        out[rows] = _neighbours(size, key, number)[places[rows]]
    return out


@lru_cache(maxsize=1024)
def _neighbours(size: int, key: tuple[int, ...], number: int) -> np.ndarray:
    """The items at positions number * TOGETHER and up."""
    return Permutation(size, key)(np.arange(number * TOGETHER, min((number + 1) * TOGETHER, size)))


def _mix(values: np.ndarray) -> np.ndarray:
    """The SplitMix64 finaliser: every input bit reaches every output bit. Arithmetic wraps at 64 bits."""
    values = values ^ (values >> SHIFTS[0])
    values *= MULTIPLIERS[0]
    values ^= values >> SHIFTS[1]
    values *= MULTIPLIERS[1]
    values ^= values >> SHIFTS[2]
    return values
