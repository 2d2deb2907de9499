"""Who may look at whom. Every order enters the network through these masks alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armd_dist.model.shapes import Ids, KeyIds, Masked, Visible

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BOS_BLOCK = -1  # before every prompt (block 0) and every generated block
TILE = 128  # rows and keys of a tile in FlexAttention's mask: its kernels' own size


@dataclass(frozen=True)
class Blocks:
    """Blocks of the rows, [batch, rows], and of the keys, [batch, keys]; `strict`: a row does not see its own block.

    since: [batch, rows], the first block that a row sees beside BOS's, for attention within documents, each of which
    has blocks of its own; None: from the first one on.
    """

    rows: Ids
    keys: KeyIds
    strict: bool
    since: Ids | None = None

    def to(self, device: object) -> "Blocks":
        since = None if self.since is None else self.since.to(device)  # type: ignore[call-overload]
        return Blocks(self.rows.to(device), self.keys.to(device), self.strict, since)  # type: ignore[call-overload]


@dataclass(frozen=True, eq=False)
class Mask:
    """Visibility of keys for one attention call.

    `causal`: row i sees keys 0..i. `blocks`: by the blocks of rows and keys. `dense` [batch or 1, rows, keys], bool:
    true where a row sees a key. One of the three at most; with none of them every row sees every key. `sighted`: it is
    known that every row sees something, so that nobody looks, for which a GPU would be waited for.

    What a kernel needs beyond that is made at its first use, on the device where the mask then is, and kept: once an
    order, not once a layer.
    """

    causal: bool = False
    dense: Visible | None = None
    blocks: Blocks | None = None
    sighted: bool = False

    def to(self, device: object) -> "Mask":
        dense = None if self.dense is None else self.dense.to(device)  # type: ignore[call-overload]
        return Mask(self.causal, dense, None if self.blocks is None else self.blocks.to(device), self.sighted)

    @cached_property
    def visible(self) -> Visible | None:
        """[batch or 1, rows, keys], true where a row sees a key; None where causal or everything."""
        if self.blocks is None:
            return self.dense
        seen = (earlier if self.blocks.strict else not_later)(self.blocks.rows, self.blocks.keys)
        return seen if self.blocks.since is None else seen & not_before(self.blocks.since, self.blocks.keys)

    @cached_property
    def blind(self) -> Masked | None:
        """[batch or 1, rows], true where a row sees nothing; None where no row is blind."""
        if self.visible is None or self.sighted:
            return None
        blind = ~self.visible.any(-1)
        return blind if blind.any() else None

    @cached_property
    def tiles(self) -> "BlockMask":
        """FlexAttention's form of `blocks`."""
        assert self.blocks is not None, "only masks of blocks have tiles"
        return block_mask(self.blocks)


@dataclass(frozen=True, eq=False)
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

    def dense(self) -> "Visibility":
        """The same with dense masks wherever blocks decide, for lengths that are not worth a compiled kernel."""
        return Visibility(*(Mask(m.causal, m.visible) for m in (self.content, self.query, self.upper)))


ALL_CAUSAL = Visibility(Mask(causal=True), Mask(causal=True), Mask(causal=True))
ALL_VISIBLE = Visibility(Mask(), Mask(), Mask())


def from_blocks(
    content_blocks: KeyIds, query_blocks: Ids, content_since: KeyIds | None = None, query_since: Ids | None = None
) -> Visibility:
    """Masks for rows in any storage order. BOS has the smallest block of all, BOS_BLOCK. since: as in `Blocks`."""
    return Visibility(
        content=Mask(blocks=Blocks(content_blocks, content_blocks, strict=False, since=content_since)),
        query=Mask(blocks=Blocks(query_blocks, content_blocks, strict=True, since=query_since)),
        upper=Mask(blocks=Blocks(query_blocks, query_blocks, strict=False, since=query_since)),
    )


def not_later(row_blocks: Ids, key_blocks: KeyIds) -> Visible:
    """M_c: [batch, rows, keys], true where b(key) <= b(row)."""
    return key_blocks[:, None, :] <= row_blocks[:, :, None]


def earlier(row_blocks: Ids, key_blocks: KeyIds) -> Visible:
    """M_sc: [batch, rows, keys], true where b(key) < b(row)."""
    return key_blocks[:, None, :] < row_blocks[:, :, None]


def not_before(row_since: Ids, key_blocks: KeyIds) -> Visible:
    """Within a document: [batch, rows, keys], true where b(key) is from the row's first block on, or the key is BOS."""
    return (key_blocks[:, None, :] >= row_since[:, :, None]) | (key_blocks == BOS_BLOCK)[:, None, :]


def block_mask(blocks: Blocks) -> "BlockMask":
    """FlexAttention's mask: which tiles hold no visible pair, some, or nothing else, and a rule for those in between.

    Equal to torch's create_block_mask, without its [rows, keys] tensor: a tile holds a visible pair if its latest row
    sees its earliest key, and nothing else if its earliest row sees its latest key. Within documents a tile may be
    listed that holds no visible pair after all; the rule then hides what is in it.
    """
    from torch.nn.attention.flex_attention import BlockMask  # needed on CUDA alone

    # The first and the latest block that a row sees; then one rule, and one compiled kernel, serves all masks.
    upto = (blocks.rows - 1 if blocks.strict else blocks.rows).contiguous()
    since = torch.full_like(upto, BOS_BLOCK) if blocks.since is None else blocks.since.contiguous()
    keys = blocks.keys.contiguous()
    (first_row, last_row, whole_row), (first_key, last_key, whole_key) = _extremes(upto), _extremes(keys)
    first_since, last_since, _ = _extremes(since)
    full = not_later(first_row, last_key) & (first_key[:, None] >= last_since[:, :, None])
    full &= whole_row[:, None] & whole_key
    of_bos = (first_key == BOS_BLOCK)[:, None]
    some = not_later(last_row, first_key) & (not_before(first_since, last_key) | of_bos) & ~full
    return BlockMask.from_kv_blocks(
        *_listed(some),
        *_listed(full),
        BLOCK_SIZE=TILE,
        mask_mod=lambda batch, head, row, key: (
            (keys[batch, key] <= upto[batch, row])
            & ((keys[batch, key] >= since[batch, row]) | (keys[batch, key] == BOS_BLOCK))
        ),
        seq_lengths=(upto.shape[1], keys.shape[1]),
    )


def _extremes(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Smallest and largest value of each tile, [batch, tiles], and whether the tile is whole, [tiles]."""
    count = values.shape[1]
    tiles = -(-count // TILE)
    padded = torch.cat((values, values[:, -1:].expand(-1, tiles * TILE - count)), dim=1)
    low, high = padded.view(len(values), tiles, TILE).aminmax(dim=-1)
    return low, high, torch.arange(1, tiles + 1, device=values.device) * TILE <= count


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of tiles how many are marked, [batch, 1, tiles], and all their numbers, marked ones first."""
    marked = tiles[:, None].to(torch.int32)
    numbers = marked.argsort(dim=-1, descending=True, stable=True)
    return marked.sum(-1, dtype=torch.int32), numbers.to(torch.int32)
