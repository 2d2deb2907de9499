"""Where the documents of a window begin, told from its tokens alone."""

import torch
import torch.nn.functional as F

from armd_dist.model.shapes import Ids


def tokens_before(tokens: Ids, eos_id: int) -> Ids:
    """For each token of [batch, rows], in text order, how many tokens of the window stand before its document.

    A document ends with its end-of-document token, which belongs to it. What the window cut off in front of its first
    document is not counted: that one begins with the window.
    """
    begins = F.pad(tokens[:, :-1] == eos_id, (1, 0), value=False)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return torch.where(begins, places, 0).cummax(dim=1).values
