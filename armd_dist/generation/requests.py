"""What a user asks for: text with holes, and the order in which they are filled."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from armd_dist.errors import GenerationError
from armd_dist.generation.learned import Pace
from armd_dist.generation.passes import check_length
from armd_dist.orders.order import Order
from armd_dist.orders.schemes import any_order, in_blocks, left_to_right, strided
from data_pipeline.tokenizer import Tokenizer

OrderName = Literal["left_to_right", "strided", "random", "block", "learned"]
HOLE = re.compile(r"<hole:(\d+)>")


@dataclass(frozen=True)
class Ordering:
    """How the holes of a text are filled, all of them counted together in text order.

    strided: in `streams` streams; random: one by one, a permutation of the request's seed; block: left to right,
    `block_size` neighbours at a time; learned: as the network chooses from the text so far, in `steps` passes, or
    `block_size` places at a time, or one by one. Raises ValueError where another order's setting is given.
    """

    name: OrderName = "strided"
    streams: int = 1
    block_size: int | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.name != "strided" and self.streams != 1:
            raise ValueError(f"streams={self.streams}: is for --order strided; leave it out with --order {self.name}")
        if self.name not in ("block", "learned") and self.block_size is not None:
            rule = "is for --order block or learned"
            raise ValueError(f"block_size={self.block_size}: {rule}; leave it out with {self.name}")
        if self.name != "learned" and self.steps is not None:
            raise ValueError(f"steps={self.steps}: is for --order learned; leave it out with --order {self.name}")
        if self.name == "block" and self.block_size is None:
            raise ValueError("block_size=None: --order block needs the number of tokens filled at a time, such as 4")
        if self.name == "learned":
            Pace(self.steps, self.block_size)

    @property
    def pace(self) -> Pace | None:
        """Of a learned order."""
        return Pace(self.steps, self.block_size) if self.name == "learned" else None

    def turns(self, count: int, seed: int) -> list[int]:
        """For each of `count` holes the pass that fills it, from 1; of a learned order not known, and 1 for all.

        Raises ValueError for more streams than holes.
        """
        if self.name == "learned":
            return [1] * count
        order = self.order(count, seed)
        turns = np.empty(count, dtype=np.int64)
        turns[order.position - 1] = order.block
        return turns.tolist()

    def order(self, count: int, seed: int | tuple[int, int]) -> Order:
        """Of `count` tokens. Raises ValueError for more streams than tokens."""
        if self.name == "strided":
            return strided(count, self.streams)
        if self.name == "random":
            return any_order(count, np.random.default_rng(seed))
        return in_blocks(left_to_right(count), self.block_size or 1)


@dataclass(frozen=True)
class Request:
    """pieces: known texts, and for each hole its tokens; infill: whether the whole text is wanted back, not what
    follows the prompt alone. permutation: hole permutation[t] (from 0) is filled t-th, in place of the ordering.
    """

    pieces: tuple[str | int, ...]
    seed: int = 0
    infill: bool = False
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Prepared:
    """ids: tokens, None for a hole; turns: the pass that fills each hole; pace: in their place where the order is
    learned."""

    request: Request
    ids: list[int | None]
    turns: list[int]
    pace: Pace | None = None


def parse_infill(text: str) -> tuple[str | int, ...]:
    """Text with holes such as `<hole:8>`, of so many tokens. Raises GenerationError where there is none."""
    parts = HOLE.split(text)
    pieces = tuple(int(part) if number % 2 else part for number, part in enumerate(parts) if part)
    check_pieces(pieces, text)
    return pieces


def check_pieces(pieces: Sequence[str | int], shown: object) -> None:
    """Raises GenerationError where nothing is to be filled, or a hole has no token."""
    holes = [piece for piece in pieces if isinstance(piece, int)]
    if not holes:
        raise GenerationError(f"infill={shown!r}: has no hole; write <hole:8> for 8 tokens")
    if min(holes) < 1:
        raise GenerationError(f"infill={shown!r}: has a hole of {min(holes)} tokens; use 1 or more")


def prepare(request: Request, tokenizer: Tokenizer, ordering: Ordering, longest: int) -> Prepared:
    """Tokens and turns. Raises GenerationError where the model or the order cannot take the request."""
    ids: list[int | None] = []
    for piece in request.pieces:
        ids += [None] * piece if isinstance(piece, int) else tokenizer.encode(piece)
    count = ids.count(None)
    if ordering.pace is not None and request.permutation is not None:
        raise GenerationError("permutation: the network chooses the order itself; leave it out with --order learned")
    try:
        check_length(len(ids) - count, count, longest)
        turns = ordering.turns(count, request.seed) if request.permutation is None else _inverse(request, count)
    except ValueError as error:
        raise GenerationError(str(error)) from error
    return Prepared(request, ids, turns, ordering.pace)


def _inverse(request: Request, count: int) -> list[int]:
    """The turn of each hole."""
    permutation = list(request.permutation or ())
    if sorted(permutation) != list(range(count)):
        raise ValueError(f"permutation={permutation}: is not one of 0 to {count - 1}; give each new token once")
    return [1 + turn for turn in np.argsort(permutation).tolist()]
