"""Who may look at whom. Every order enters the network through these masks alone."""

from dataclasses import dataclass

from torch import Tensor

from armd_dist.model.shapes import Ids, KeyIds, Visible


@dataclass(frozen=True)
class Mask:
    """Visibility of keys for one attention call.

    `causal`: row i sees keys 0..i, for the plain causal kernel. Otherwise `dense` [batch, rows, keys] is true where a
    row sees a key, and None means that every row sees every key.
    """

    causal: bool = False
    dense: Tensor | None = None

    def to(self, device: object) -> "Mask":
        return Mask(self.causal, None if self.dense is None else self.dense.to(device))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Visibility:
    """The three masks of a two-stream network (ARMD paper).

    content: content rows on content keys, b(m) <= b(n) (M_c); query: query rows on content keys, b(m) < b(n) (M_sc);
    upper: query rows on query keys in the upper layers, b(m) <= b(n) (M_c).
    """

    content: Mask
    query: Mask
    upper: Mask

    def to(self, device: object) -> "Visibility":
        return Visibility(self.content.to(device), self.query.to(device), self.upper.to(device))


ALL_CAUSAL = Visibility(Mask(causal=True), Mask(causal=True), Mask(causal=True))
ALL_VISIBLE = Visibility(Mask(), Mask(), Mask())


def from_blocks(content_blocks: KeyIds, query_blocks: Ids) -> Visibility:
    """Dense masks for rows in any storage order; needs O(rows^2) memory. BOS has the smallest block of all."""
    return Visibility(
        content=Mask(dense=not_later(content_blocks, content_blocks)),
        query=Mask(dense=earlier(query_blocks, content_blocks)),
        upper=Mask(dense=not_later(query_blocks, query_blocks)),
    )


def not_later(row_blocks: Ids, key_blocks: KeyIds) -> Visible:
    """M_c: [batch, rows, keys], true where b(key) <= b(row)."""
    return key_blocks[:, None, :] <= row_blocks[:, :, None]


def earlier(row_blocks: Ids, key_blocks: KeyIds) -> Visible:
    """M_sc: [batch, rows, keys], true where b(key) < b(row)."""
    return key_blocks[:, None, :] < row_blocks[:, :, None]
