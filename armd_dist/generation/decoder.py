"""Decoding block by block with a KV cache: one fused pass per block.

A pass runs the content rows of the block just placed together with the query rows of the next one. Two-stream layers
cache keys and values of the content rows, upper layers those of the query rows, which are final when computed because
they depend on earlier blocks alone. The prompt is revealed left to right before everything else and read in the first
pass.
"""

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from armd_dist.generation.cache import make_caches
from armd_dist.generation.sampling import Sampling, sample
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout
from armd_dist.model.neighbours import NOTHING, Neighbours
from armd_dist.model.visibility import ALL_CAUSAL, ALL_VISIBLE, BOS_BLOCK, Visibility, from_blocks


@dataclass(frozen=True)
class Generated:
    """tokens, logprobs: [batch, new tokens] in text order; passes: forward passes that were run."""

    tokens: Tensor
    logprobs: Tensor
    passes: int


@torch.no_grad()
def decode(
    model: ARMD,
    prompt: Tensor,
    blocks: list[list[int]],
    sampling: Sampling,
    bos_id: int,
    generator: torch.Generator,
) -> Generated:
    """Generates behind `prompt` [batch, prompt tokens] (BOS not included), which may be empty.

    blocks: for each pass the places it fills, counted from 0 behind the prompt; together they are 0..n-1.
    Raises ValueError where prompt and new tokens exceed the model's length.
    """
    batch, start = prompt.shape
    total = start + sum(map(len, blocks))
    if total > model.config.max_sequence_length:
        raise ValueError(
            f"a prompt of {start} tokens and {total - start} new ones exceed the model's length of "
            f"{model.config.max_sequence_length}; shorten the prompt or generate fewer"
        )
    caches = make_caches(model.config, capacity=total + 1)
    text = torch.full((batch, total + 1), bos_id, dtype=torch.int64, device=prompt.device)
    text[:, 1 : start + 1] = prompt
    logprobs = torch.zeros(batch, total + 1, dtype=torch.float64, device=prompt.device)
    visible = list(range(start + 1))  # places in the text, sorted; 0 is BOS
    content = visible
    for number, block in enumerate(blocks):
        places = [start + 1 + place for place in block]
        first = number == 0
        see = _first_visibility(start, len(places), prompt) if first else ALL_VISIBLE
        rows = [*range(1, start + 1), *places] if first else places
        logits = model(_layout(text, content, rows, visible, see), caches)
        # Without the vocabulary's padding: it would take part in how the generator's numbers become tokens.
        tokens, scores = sample(logits[-len(places) :, :, : model.config.vocab_size], sampling, generator)
        text[:, places], logprobs[:, places] = tokens.t(), scores.t().to(logprobs.dtype)
        visible = sorted([*visible, *places])
        content = places
    return Generated(text[:, start + 1 :], logprobs[:, start + 1 :], passes=len(blocks))


def _first_visibility(prompt: int, block: int, like: Tensor) -> Visibility:
    """The pass over the prompt: everything is causal, unless the first block holds several tokens."""
    if block == 1:
        return ALL_CAUSAL
    at = torch.arange(prompt, device=like.device)
    content = torch.cat((at.new_tensor([BOS_BLOCK]), at))
    query = torch.cat((at, at.new_full((block,), prompt)))
    # Dense: to compile a kernel for each length of a prompt would take longer than the passes over it.
    return from_blocks(content.expand(len(like), -1), query.expand(len(like), -1)).dense()


def _layout(text: Tensor, content: list[int], rows: list[int], visible: list[int], see: Visibility) -> Layout:
    """Rows of one pass. Every query row looks for neighbours among the visible places before it was placed itself."""
    left = [visible[bisect_left(visible, place) - 1] for place in rows]
    # A row that is visible itself belongs to the prompt, which is revealed left to right: nothing to its right yet.
    known = set(visible)
    after = [len(visible) if place in known else bisect_left(visible, place) for place in rows]
    right = [visible[index] if index < len(visible) else place for index, place in zip(after, rows, strict=True)]
    places, lefts, rights = (torch.tensor(values, device=text.device) for values in (rows, left, right))
    exists = rights != places

    def everywhere(values: Tensor) -> Tensor:
        return values.expand(len(text), -1)

    return Layout(
        content_ids=text[:, content],
        content_positions=everywhere(torch.tensor(content, device=text.device)),
        query_positions=everywhere(places),
        neighbours=Neighbours(
            left_ids=text[:, lefts],
            left_distance=everywhere(places - lefts),
            right_ids=text[:, rights],
            right_distance=everywhere(torch.where(exists, rights - places, NOTHING)),
        ),
        visibility=see,
    )
