"""How sequences and their orders are laid out as rows of the network.

BOS stands at place 0 and is visible to every row: it is the null slot of the strictly causal stream. Content rows are
[BOS, tokens but one of the last block] (that one's content is never a key), query rows are the tokens to predict.
Stored in the sequence of revelation, query row i sees content rows 0..i and nothing else wherever blocks hold one
token, so all three masks are the plain causal one.
"""

from dataclasses import dataclass

import torch

from armd_dist.model.neighbours import Neighbours, nearest_visible
from armd_dist.model.shapes import Ids, KeyIds
from armd_dist.model.visibility import ALL_CAUSAL, Visibility, from_blocks

BOS_BLOCK = -1  # before every prompt (block 0) and every generated block


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


def lay_out(ids: Ids, positions: Ids, blocks: Ids, bos_id: int) -> Layout:
    """Rows for whole sequences.

    ids, positions (places in the text from 1), blocks (from 0; 0 is a prompt shown at once): [batch, rows], in any
    storage order; the fast masks are taken where every sequence is stored in the sequence of revelation, one token a
    block.
    """
    batch, rows = ids.shape
    keep = torch.ones_like(ids, dtype=torch.bool)
    keep[torch.arange(batch, device=ids.device), blocks.argmax(dim=1)] = False
    content_blocks = _behind_bos(blocks[keep].view(batch, rows - 1), BOS_BLOCK)
    singletons = bool((blocks.diff(dim=1) > 0).all())
    return Layout(
        content_ids=_behind_bos(ids[keep].view(batch, rows - 1), bos_id),
        content_positions=_behind_bos(positions[keep].view(batch, rows - 1), 0),
        query_positions=positions,
        neighbours=nearest_visible(ids, positions, blocks, bos_id),
        visibility=ALL_CAUSAL if singletons else from_blocks(content_blocks, blocks),
    )


def _behind_bos(values: Ids, first: int) -> KeyIds:
    return torch.nn.functional.pad(values, (1, 0), value=first)
