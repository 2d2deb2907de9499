"""Padded batches of texts that may lack BOS, as the rows that the network reads, and its rows back in their places."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from armd_dist.model.armd import ARMD
from armd_dist.model.layout import lay_out


@dataclass(frozen=True)
class Aligned:
    """ids: texts behind BOS, from place 1 on, [batch, places]; begins: [batch], where each stands in the input.

    The last place of the longest text is one that is not there yet; what stands in it is never looked at.
    """

    ids: Tensor
    begins: Tensor
    length: int

    def back(self, rows: Tensor) -> Tensor:
        """rows: [batch, places, features] of the places; returns [batch, length, features], at each token the row of
        the next one. At padding stand rows that mean nothing."""
        if bool((self.begins == 1).all()) and rows.shape[1] == self.length:
            return rows
        at = torch.arange(self.length, device=rows.device) - self.begins[:, None] + 1
        return rows.gather(1, at.clamp(0, rows.shape[1] - 1)[..., None].expand(-1, -1, rows.shape[2]))


def align(input_ids: Tensor, attention_mask: Tensor | None, bos_id: int, longest: int) -> Aligned:
    """Texts of a batch [batch, length], padded left or right where the mask is 0; BOS is put before those without it.

    Places count from each text's first token. Raises ValueError for a mask with holes, a row without a token, or more
    places than `longest`.
    """
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    at = torch.arange(input_ids.shape[1], device=input_ids.device)
    first, count = real.int().argmax(1), real.sum(1)
    if bool((count == 0).any()):
        raise ValueError("attention_mask: a row hides all of its tokens; leave it out of the batch")
    if bool((real != ((at >= first[:, None]) & (at < (first + count)[:, None]))).any()):
        raise ValueError("attention_mask: a row has a hole; padding may stand before and behind a text, not inside it")
    has_bos = (input_ids.gather(1, first[:, None])[:, 0] == bos_id).long()
    begins, places = first + has_bos, int((count - has_bos).max()) + 1
    if places > longest:
        rule = f"are {places} places with the one to predict, and the model has {longest}"
        raise ValueError(f"input_ids: the tokens behind BOS {rule}; give shorter texts")
    index = begins[:, None] + torch.arange(places, device=input_ids.device)
    inside = index < (first + count)[:, None]
    ids = F.pad(input_ids, (0, 1), value=bos_id).gather(1, index.clamp(max=input_ids.shape[1]))
    return Aligned(torch.where(inside, ids, bos_id), begins, input_ids.shape[1])


def next_rows(network: ARMD, input_ids: Tensor, attention_mask: Tensor | None, bos_id: int) -> Tensor:
    """What the network gives for the token after each of [batch, length], left to right: [batch, length, features]."""
    aligned = align(input_ids, attention_mask, bos_id, network.config.max_sequence_length)
    places = torch.arange(1, aligned.ids.shape[1] + 1, device=input_ids.device).expand_as(aligned.ids)
    return aligned.back(network(lay_out(aligned.ids, places, places, bos_id)).transpose(0, 1))
