"""Strided block-parallel generation in plain integers, without NumPy: exported models carry this file."""


def stream_length(length: int, streams: int) -> int:
    """Tokens of each stream, the last one excepted. Raises ValueError where `streams` is not within 1..length."""
    if not 1 <= streams <= length:
        raise ValueError(f"streams={streams}: {length} tokens can be generated in 1 to {length} streams")
    return -(-length // streams)


def num_heads(length: int, streams: int) -> int:
    """Streams that really start: rounding up their length may leave fewer than asked for (5 tokens in 4: three)."""
    return -(-length // stream_length(length, streams))


def strided_places(length: int, streams: int) -> list[list[int]]:
    """The places (0-based) that each block of a strided generation fills, block after block.

    First the heads one by one, then place j of every stream together.
    """
    stride = stream_length(length, streams)
    heads = [[start] for start in range(0, length, stride)]
    parallel = [[place for place in range(j, length, stride)] for j in range(1, stride)]
    return heads + parallel
