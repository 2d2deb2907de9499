"""Which rows each forward pass of a decode reads, worked out for the whole batch before the first one.

Texts of one batch may differ in length, in what is known of them and in their orders. They are laid out as columns, in
the sequence of revelation: BOS, the known tokens (left to right), then what each pass fills. A text that has fewer rows
in a pass than another one is padded there. Padding belongs to a block after all others, so that nobody sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from armd_dist.model.neighbours import nearest_visible
from armd_dist.model.shapes import Ids
from armd_dist.model.visibility import ALL_CAUSAL, ALL_VISIBLE, BOS_BLOCK, Mask, Visibility, earlier, not_later

KNOWN = 0  # turn of a token that is given; pass p fills the places of turn p
BEHIND = -1  # turn of the places behind a shorter text's end
PADDING = 1 << 62  # block of padding

Columned = slice | Tensor  # columns of a batch: of neighbouring ones, or their numbers


@dataclass(frozen=True)
class Columns:
    """Rows of all passes, integers [batch, columns]. Column 0 is BOS.

    slots: where each row's token stands in [batch, 1 + places + 1], BOS first; padding has the slot behind the last
    place, which nobody reads. places, blocks: as in `lay_out`. left, right: slots of the nearest tokens revealed
    earlier, with their distances as in `Neighbours`. ends: ends[p] columns are known or filled after pass p;
    padded[p]: whether padding is among them.
    """

    slots: Ids
    places: Ids
    blocks: Ids
    left: Ids
    left_distance: Ids
    right: Ids
    right_distance: Ids
    ends: list[int]
    padded: list[bool]

    @property
    def passes(self) -> int:
        return len(self.ends) - 1

    def rows_of(self, number: int) -> tuple[slice, slice]:
        """Columns of the content and of the query rows of pass `number`."""
        begin, end = self.ends[number - 1 : number + 1]
        if number == 1:
            return slice(0, begin), slice(1, end)
        return slice(self.ends[number - 2], begin), slice(begin, end)

    def visibility_of(self, number: int) -> Visibility:
        """Who sees whom in pass `number`, among the rows of all passes so far."""
        content, query = self.rows_of(number)
        if not self.padded[number]:
            if number > 1:
                return ALL_VISIBLE
            if query.stop - content.stop == 1:
                return ALL_CAUSAL
        blocks = self.blocks
        # Dense: to compile a kernel for each length of a prompt would take longer than the passes over it.
        return Visibility(
            content=Mask(dense=not_later(blocks[:, content], blocks[:, : content.stop])),
            query=Mask(dense=earlier(blocks[:, query], blocks[:, : content.stop])),
            upper=Mask(dense=not_later(blocks[:, query], blocks[:, 1 : query.stop])),
        )

    def to(self, device: torch.device) -> "Columns":
        return Columns(*(t.to(device) for t in list(vars(self).values())[:-2]), self.ends, self.padded)  # type: ignore[arg-type]


def make_batch(texts: Sequence[Sequence[int | None]], turns: Sequence[Sequence[int]], bos_id: int) -> tuple[Ids, Ids]:
    """Texts whose holes are None, and for each the passes (from 1) that fill its holes, in text order.

    Returns ids and turns, both [batch, places], as `decode` takes them. Raises ValueError where a text's holes and
    turns differ in number.
    """
    shape = (len(texts), max(map(len, texts)))
    ids, when = torch.full(shape, bos_id), torch.full(shape, BEHIND)
    for row, (text, given) in enumerate(zip(texts, turns, strict=True)):
        remaining = iter(given)
        ids[row, : len(text)] = torch.tensor([bos_id if token is None else token for token in text], dtype=torch.int64)
        own = [next(remaining) if token is None else KNOWN for token in text]
        when[row, : len(text)] = torch.tensor(own, dtype=torch.int64)
    return ids, when


def turns_of(blocks: Sequence[Sequence[int]]) -> list[int]:
    """For each place 0..n-1 the pass (from 1) that fills it, of blocks of places."""
    turns = {place: number for number, block in enumerate(blocks, start=1) for place in block}
    return [turns[place] for place in range(len(turns))]


def check_length(known: int, new: int, longest: int) -> None:
    """Raises ValueError where a text has more tokens than the model takes."""
    if known + new > longest:
        raise ValueError(
            f"{known} known tokens and {new} new ones exceed the model's length of {longest}; "
            "shorten the prompt or generate fewer"
        )


def lay_columns(turns: Ids) -> Columns:
    """The columns of texts with these turns [batch, places], on the CPU."""
    batch, count = turns.shape
    known = turns == KNOWN
    most_known = int(known.sum(1).max())
    blocks = torch.where(turns > 0, most_known + turns, PADDING)
    blocks = torch.where(known, known.cumsum(1) - 1, blocks)
    ends, columns = _place_columns(turns, blocks)
    slots = torch.full((batch, ends[-1] + 1), count + 1)
    slots[:, 0] = 0
    places = torch.arange(1, count + 1).expand(batch, -1)
    slots = slots.scatter(1, columns, places)[:, :-1]
    of_row = _of_slots(slots, places, blocks)
    waste = (of_row[1] == PADDING).any(0)
    return Columns(slots, *of_row, ends=ends, padded=[bool(waste[:end].any()) for end in ends])


def _place_columns(turns: Ids, blocks: Ids) -> tuple[list[int], Ids]:
    """Where each pass ends, and the column of every place; those behind a text's end share the column after the last.

    As many columns for each pass as the text that fills most in it needs.
    """
    batch, count = turns.shape
    used = turns != BEHIND
    sizes = torch.zeros(batch, int(turns.max()) + 1, dtype=torch.int64)
    sizes.scatter_add_(1, turns.clamp(min=0), used.long())
    ends = list(accumulate(sizes.amax(0).tolist(), initial=1))[1:]
    begins = torch.tensor([1, *ends[:-1]])
    stored = blocks.argsort(dim=1, stable=True)
    turn = turns.gather(1, stored).clamp(min=0)
    number = torch.arange(count) - (sizes.cumsum(1) - sizes).gather(1, turn)  # within its text's own pass
    column = torch.where(used.gather(1, stored), begins[turn] + number, ends[-1])
    return ends, torch.empty_like(column).scatter(1, stored, column)


def _of_slots(slots: Ids, places: Ids, blocks: Ids) -> tuple[Ids, Ids, Ids, Ids, Ids, Ids]:
    """places, blocks and neighbours of the rows in these slots. Padding stands where BOS does and has no neighbours."""
    near = nearest_visible(places, places, blocks, 0)  # of ids that are places, neighbours are places

    def at(values: Ids, of_bos: int = 0, of_padding: int = 0) -> Ids:
        ends = values.new_tensor([of_bos, of_padding]).expand(len(values), -1)
        return torch.cat((ends[:, :1], values, ends[:, 1:]), dim=1).gather(1, slots)

    neighbours = (near.left_ids, near.left_distance, near.right_ids, near.right_distance)
    return at(places), at(blocks, BOS_BLOCK, PADDING), *(at(part) for part in neighbours)  # type: ignore[return-value]
