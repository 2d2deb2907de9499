"""One random generator for each sample of a batch, at a fraction of what making them one by one costs.

Most of a draw was `np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, sample, stage))))`. Here NumPy's
seeding is computed for all samples at once, and one generator is set to each key in turn. The numbers drawn are the
same; NumPy promises that they stay so (NEP 19 and `SeedSequence`).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

# Most of a batch's seeding is the same for any number of samples: it is done for so many at once, and kept, since
# the next batch, or the next step's, asks for their neighbours.
TOGETHER = 1024

# NumPy's SeedSequence, after O'Neill's seed_seq: a pool of 4 words, each hash with the next of a row of constants.
POOL = 4
FIRST_IN, STEP_IN = 0x43B0D7E5, 0x931E8875
FIRST_OUT, STEP_OUT = 0x8B51F9DD, 0x58F38DED
LEFT, RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
SHIFT = np.uint32(16)


def generators(seed: int, samples: Sequence[int], stage: int) -> Iterator[np.random.Generator]:
    """For each sample the generator that (seed, sample, stage) seeds; it is good until the next one is taken."""
    philox = np.random.Philox(0)
    generator = np.random.Generator(philox)
    start = {"counter": [0] * 4, "key": [0, 0]}
    rest = {"buffer": [0] * 4, "buffer_pos": 4, "has_uint32": 0, "uinteger": 0}
    fresh = {"bit_generator": "Philox", "state": start, **rest}
    for key in _keys(seed, np.asarray(samples, dtype=np.uint64), stage):
        start["key"] = key
        philox.state = fresh  # pyright: ignore[reportAttributeAccessIssue]
        yield generator


def _keys(seed: int, samples: npt.NDArray[np.uint64], stage: int) -> list[list[int]]:
    """Philox' key, 2 words of 64 bits, of every sample."""
    keys = np.empty((len(samples), 2), dtype="<u8")
    numbers, places = np.divmod(samples, np.uint64(TOGETHER))
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        keys[rows] = _neighbours(seed, number, stage)[places[rows]]
    return keys.tolist()


@lru_cache(maxsize=64)
def _neighbours(seed: int, number: int, stage: int) -> npt.NDArray[np.uint64]:
    """[TOGETHER, 2]: the keys of samples number * TOGETHER and up."""
    samples = np.arange(number * TOGETHER, (number + 1) * TOGETHER, dtype="<u8")
    numbers = samples.view("<u4").reshape(-1, 2).T
    large = number * TOGETHER >> 32 != 0  # such numbers take two words, so the entropy is longer by one
    words = [*_words(seed), *(numbers if large else numbers[:1]), *_words(stage)]
    return _key(np.array(np.broadcast_arrays(*words), dtype=np.uint32))


def _words(number: int) -> list[np.uint32]:
    """An integer's 32-bit words, lowest first, at least one."""
    return [np.uint32(number >> shift & 0xFFFFFFFF) for shift in range(0, max(number.bit_length(), 1), 32)]


def _key(entropy: Words) -> npt.NDArray[np.uint64]:
    """[words, samples] in, [samples, 2] out: SeedSequence's pool and the first 4 words of its state."""
    size, count = entropy.shape
    constants = _constants(FIRST_IN, STEP_IN, POOL * max(POOL, size) + 1)
    pool = np.zeros((POOL, count), dtype=np.uint32)
    pool[:size] = entropy[:POOL]
    pool = _hash(pool, constants[: POOL + 1])
    used = POOL
    for source in range(POOL):
        others = [k for k in range(POOL) if k != source]
        pool[others] = _mix(pool[others], _hash(pool[source], constants[used : used + POOL]))
        used += POOL - 1
    for word in entropy[POOL:]:
        pool = _mix(pool, _hash(word, constants[used : used + POOL + 1]))
        used += POOL
    state = _hash(pool, _constants(FIRST_OUT, STEP_OUT, POOL + 1))
    return np.ascontiguousarray(state.T, dtype="<u4").view("<u8")


def _constants(first: int, step: int, count: int) -> Words:
    """[count, 1]: first * step^k modulo 2^32."""
    return np.array([first * pow(step, k, 1 << 32) & 0xFFFFFFFF for k in range(count)], dtype=np.uint32)[:, None]


def _hash(values: Words, constants: Words) -> Words:
    """One hash of `values` for each pair of neighbouring constants: a row out for each."""
    hashed = (values ^ constants[:-1]) * constants[1:]
    return hashed ^ (hashed >> SHIFT)


def _mix(values: Words, hashed: Words) -> Words:
    mixed = LEFT * values - RIGHT * hashed
    return mixed ^ (mixed >> SHIFT)
