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


def masked_diffusion(length: int, steps: int, generator: np.random.Generator) -> Order:
    """Masked diffusion in T = `steps` steps: b(n) = T + 1 - tau(n), tau iid uniform on 1..T.

    Masked last is revealed first (ARMD paper). Steps that reveal nothing leave their block out.
    """
    return from_blocks(steps + 1 - generator.integers(1, steps + 1, size=length))


def block_diffusion(length: int, block_length: int, steps: int, generator: np.random.Generator) -> Order:
    """BD3-LM: windows of `block_length` places left to right, inside each masked diffusion in `steps` steps.

    b(n) = steps * window(n) + steps + 1 - tau(n), tau iid uniform on 1..steps (our choice). The last window may be
    short. block_length = 1 is left to right, block_length >= length masked diffusion.
    """
    window_of_place = np.arange(length) // block_length
    tau = generator.integers(1, steps + 1, size=length)
    return from_blocks(steps * window_of_place + steps + 1 - tau)


def segments(length: int, rho: int, generator: np.random.Generator) -> Order:
    """`rho` contiguous segments of nearly equal length in shuffled order, left to right inside.

    rho = 1 is left to right, rho = length is any order (ARMD paper; what rho counts is our choice).
    """
    return segments_as(length, generator.permutation(rho)[None])[0]


def segments_as(length: int, shuffled: Integers) -> list[Order]:
    """`segments` for many texts, whose segments come as each row of `shuffled` [texts, rho] says."""
    texts, rho = shuffled.shape
    turns = np.arange(1, length + 1)
    if length % rho == 0:  # segments of one length: a gather, in a third of the time
        positions = np.take(turns.reshape(rho, -1), shuffled, axis=0).reshape(texts, length)
    else:
        starts = np.arange(rho + 1) * length // rho
        begins, widths = starts[shuffled], np.diff(starts)[shuffled]
        shifts = begins - np.cumsum(widths, axis=1) + widths  # from a token's turn to its place
        positions = turns + np.repeat(shifts.ravel(), widths.ravel()).reshape(texts, length)
    return [Order(position, turns) for position in positions]


def tokens(length: int, rho: int, generator: np.random.Generator) -> Order:
    """`rho` random places exchange their turns by a random permutation, all others are revealed as left to right.

    rho = 1 is left to right, rho = length is any order (our choice). Raises ValueError for more than `length` places.
    """
    reveal = np.arange(length)
    exchanged = generator.choice(length, size=rho, replace=False)  # in random order
    reveal[np.sort(exchanged)] = exchanged
    return from_permutation(reveal)


def window(length: int, rho: int, generator: np.random.Generator) -> Order:
    """Windows of `rho` places left to right, shuffled inside. The last window may be short.

    rho = 1 is left to right, rho >= length is any order (our choice).
    """
    return from_permutation(np.lexsort((generator.random(length), np.arange(length) // rho)))


def in_blocks(order: Order, size: int) -> Order:
    """The tokens of `order` in its sequence, `size` at a time; what remains is a short last block (our choice).

    For orders of one token at a time. size = 1 changes nothing.
    """
    block_of_place = np.empty_like(order.block)
    block_of_place[order.position - 1] = np.arange(len(order.position)) // size + 1
    return from_blocks(block_of_place)


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
