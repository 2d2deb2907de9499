"""The KV cache of continuous batching: a slot for each text, taken once and used again by the next text."""

from collections.abc import Sequence

from torch import Tensor

from armd_dist.generation.cache import of_query
from armd_dist.model.config import ModelConfig
from armd_dist.model.shapes import HeadRows


class Place:
    """Where the rows of the pass under way belong, for all caches of one stream.

    columns: [texts, rows], the cache's columns of the texts in the slots from `first` on; width: columns that any of
    these rows may see.
    """

    first: int
    columns: Tensor
    width: int


class SlotCache:
    """Keys and values of one layer, [slots, heads, capacity + 1, head_dim] each; the last column takes padding.

    Zeros to begin with: what nobody sees weighs nothing only where it is finite.
    """

    def __init__(self, slots: int, capacity: int, place: Place) -> None:
        self.slots, self.capacity, self.place = slots, capacity, place
        self.parts: tuple[Tensor, Tensor] | None = None

    def extend(self, keys: HeadRows, values: HeadRows) -> tuple[HeadRows, HeadRows]:
        """Writes the rows to their columns; returns views of the columns that they may see."""
        texts, heads, _, size = keys.shape
        if self.parts is None:
            shape = (self.slots, heads, self.capacity + 1)
            self.parts = keys.new_zeros(*shape, size), values.new_zeros(*shape, values.shape[3])
        first, width = self.place.first, self.place.width
        mine = [part[first : first + texts] for part in self.parts]
        columns = self.place.columns[:, None, :, None]
        for part, rows in zip(mine, (keys, values), strict=True):
            part.scatter_(2, columns.expand(-1, heads, -1, rows.shape[3]), rows)
        return mine[0][:, :, :width], mine[1][:, :, :width]

    def wipe(self, slot: int) -> None:
        """Zeros again, after a text whose numbers were not finite."""
        for part in self.parts or ():
            part[slot] = 0

    def move(self, source: int, target: int, width: int) -> None:
        """Copies the first columns of one slot to another."""
        for part in self.parts or ():
            part[target, :, :width] = part[source, :, :width]


def make_slots(config: ModelConfig, slots: int) -> tuple[Sequence[SlotCache], Place, Place]:
    """Caches as `ARMD.forward` takes them, with the places of content rows and of query rows."""
    content, query = Place(), Place()
    owners = [query if upper else content for upper in of_query(config)]
    return [SlotCache(slots, config.max_sequence_length, owner) for owner in owners], content, query
