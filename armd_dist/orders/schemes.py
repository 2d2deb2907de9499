"""The schemes of generation. Each returns an Order; the random ones draw from the generator that they are given."""

import numpy as np

from armd_dist.orders.order import Integers, Order, from_blocks, from_permutation
from armd_dist.orders.strided import num_heads, stream_length


def left_to_right(length: int) -> Order:
    """AR: place n is revealed n-th."""
    return from_permutation(np.arange(length))


def any_order(length: int, generator: np.random.Generator) -> Order:
    """A uniform random permutation: masked diffusion in the limit of many steps."""
    return from_permutation(generator.permutation(length))


def segments(length: int, rho: int, generator: np.random.Generator) -> Order:
    """`rho` contiguous segments of nearly equal length in shuffled order, left to right inside.

    rho = 1 is left to right, rho = length is any order (ARMD paper; what rho counts is our choice).
    """
    starts = np.arange(rho + 1) * length // rho
    shuffled = generator.permutation(rho)
    widths = np.diff(starts)[shuffled]
    ends = np.cumsum(widths)
    return from_permutation(np.arange(length) - np.repeat(ends - widths, widths) + np.repeat(starts[shuffled], widths))


def strided(length: int, streams: int) -> Order:
    """`streams` parallel streams: the heads one after another, then one token of every stream at a time.

    With M = ceil(length / streams), stream s starts at place s * M; heads take blocks 1..S, place j of every stream
    block S + j: S + M - 1 blocks. The last stream may be short (ARMD paper, strided block-parallel generation).
    """
    return from_blocks(strided_blocks(length, streams))


def strided_blocks(length: int, streams: int) -> Integers:
    """[length] block of every place under `streams` strided streams. Raises ValueError for more streams than places."""
    stride = stream_length(length, streams)
    place = np.arange(length)
    stream, offset = place // stride, place % stride
    return np.where(offset == 0, stream + 1, num_heads(length, streams) + offset)
