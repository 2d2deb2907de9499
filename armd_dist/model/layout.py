"""How sequences and their orders are laid out as rows of the network.

BOS stands at place 0 and is visible to every row: it is the null slot of the strictly causal stream. Content rows are
[BOS, tokens but one of the last block] (that one's content is never a key), query rows are the tokens to predict.
Stored in the sequence of revelation, query row i sees content rows 0..i and nothing else wherever blocks hold one
token, so all three masks are the plain causal one.

Where attention stays within documents, each of them is laid out as if it stood alone: places count from 1 in it, BOS is
before all of them, and the blocks of later documents follow those of earlier ones, so that every rule about blocks
(masks, nearest neighbours, tiles) serves a window of documents too.
"""

from dataclasses import dataclass

import torch

from armd_dist.model.neighbours import Neighbours, nearest_visible
from armd_dist.model.shapes import Ids, KeyIds
from armd_dist.model.visibility import ALL_CAUSAL, BOS_BLOCK, Visibility, from_blocks


@dataclass(frozen=True)
class Layout:
    """One batch as the network reads it. All tensors are [batch, rows], integers."""

    content_ids: KeyIds
    content_positions: KeyIds
    query_positions: Ids
    neighbours: Neighbours
    visibility: Visibility

    def to(self, device: object) -> "Layout":
        return Layout(
            self.content_ids.to(device),  # type: ignore[call-overload]
            self.content_positions.to(device),  # type: ignore[call-overload]
            self.query_positions.to(device),  # type: ignore[call-overload]
            self.neighbours.to(device),
            self.visibility.to(device),
        )


def lay_out(ids: Ids, positions: Ids, blocks: Ids, bos_id: int, before: Ids | None = None) -> Layout:
    """Rows for whole sequences.

    ids, positions (places in the text from 1), blocks (from 0; 0 is a prompt shown at once): [batch, rows], in any
    storage order; the fast masks are taken where every sequence is stored in the sequence of revelation, one token a
    block. before: [batch, rows], how many tokens of the text stand before each row's document, for attention within
    documents; None: the text is one document.
    """
    batch, rows = ids.shape
    since = None
    if before is not None and before.any():
        since = before * (blocks.max() + 1)
        blocks, here = since + blocks, positions - before
    else:
        before, here = None, positions
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[torch.arange(batch, device=ids.device), blocks.argmax(dim=1)] = False

    def content(values: Ids, of_bos: int) -> KeyIds:
        return torch.nn.functional.pad(values[keep].view(batch, rows - 1), (1, 0), value=of_bos)

    singletons = since is None and bool((blocks.diff(dim=1) > 0).all())
    content_since = None if since is None else content(since, BOS_BLOCK)
    return Layout(
        content_ids=content(ids, bos_id),
        content_positions=content(here, 0),
        query_positions=here,
        neighbours=nearest_visible(ids, positions, blocks, bos_id, before),
        visibility=ALL_CAUSAL if singletons else from_blocks(content(blocks, BOS_BLOCK), blocks, content_since, since),
    )
