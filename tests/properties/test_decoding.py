"""Decoding with a cache says exactly what one full pass over the finished text says."""

import numpy as np
import pytest
import torch
from checks import decode_against_full
from full_pass import window_nll
from toys import BOS, CONTEXTS, tiny_model

from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.orders.order import from_blocks
from armd_dist.orders.schemes import any_order, in_blocks, left_to_right, masked_diffusion, strided

CASES = [(context, layers) for context in CONTEXTS for layers in (1, 2, 4)] + [("neighbours", 0)]
ORDERS = {
    "left_to_right": left_to_right(9),
    "any_order": any_order(9, np.random.default_rng(0)),
    "strided_2": strided(8, 2),
    "strided_2_ragged": strided(9, 2),
    "strided_4": strided(8, 4),
    "strided_4_ragged": strided(11, 4),
    "masked_diffusion": masked_diffusion(9, 4, np.random.default_rng(0)),
    "several_at_once": from_blocks(np.array([2, 1, 3, 1, 2, 1])),
    "all_at_once": from_blocks(np.ones(5, dtype=np.int64)),
    "one_token": left_to_right(1),
}


@pytest.mark.parametrize("prompt", [0, 1, 4])
@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_cached_decode_equals_the_full_pass(context: str, two_stream: int, name: str, prompt: int) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    assert decode_against_full(model, ORDERS[name], prompt) < 1e-10


PADDED = [(context, 2) for context in CONTEXTS] + [("neighbours", layers) for layers in (0, 1, 4)]
TOGETHER = {
    "left_to_right": [left_to_right(6), left_to_right(9), left_to_right(2)],
    "random": [any_order(length, np.random.default_rng(length)) for length in (7, 4, 9)],
    "strided": [strided(8, 2), strided(11, 4), strided(5, 1)],
    "blocks": [in_blocks(left_to_right(length), 3) for length in (7, 9, 3)],
    "all_sorts": [from_blocks(np.array([2, 1, 3, 1, 2, 1])), strided(9, 2), any_order(5, np.random.default_rng(1))],
}


def shapes_of(name: str, infill: bool) -> list[tuple[list[int | None], list[int]]]:
    """Texts of different lengths with prompts of different lengths, or with holes anywhere, and their turns."""
    made = []
    for row, order in enumerate(TOGETHER[name]):
        draw = np.random.default_rng(row)
        known = [int(token) for token in draw.integers(2, 40, size=(5, 0, 3)[row])]
        count = len(order.position)
        ids: list[int | None] = [*known, *[None] * count]
        if infill:
            ids = [ids[place] for place in draw.permutation(len(ids))]
        turns = np.empty(count, dtype=np.int64)
        turns[order.position - 1] = order.block
        made.append((ids, turns.tolist()))
    return made


@pytest.mark.parametrize("infill", [False, True])
@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize(("context", "two_stream"), PADDED)
def test_texts_of_one_batch_are_what_they_are_alone(context: str, two_stream: int, name: str, infill: bool) -> None:
    """Tokens, log-probabilities and the full pass of the evaluator: padding is nowhere to be seen."""
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    assert_rows_stand_alone(model, shapes_of(name, infill), 1e-10)


@pytest.mark.parametrize("infill", [False, True])
@pytest.mark.parametrize("name", TOGETHER)
def test_the_same_in_single_precision(name: str, infill: bool) -> None:
    assert_rows_stand_alone(tiny_model(dtype=torch.float32), shapes_of(name, infill), 1e-4)


def assert_rows_stand_alone(model: ARMD, shapes: list[tuple[list[int | None], list[int]]], tolerance: float) -> None:
    sampling, seeds = Sampling(repetition_penalty=1.3), [11, 5, 8]
    texts, turns = [shape[0] for shape in shapes], [shape[1] for shape in shapes]
    together = decode(model, *make_batch(texts, turns, BOS), sampling, BOS, seeds)
    for row, (text, turn) in enumerate(shapes):
        alone = decode(model, *make_batch([text], [turn], BOS), sampling, BOS, seeds[row : row + 1])
        count = len(text)
        assert torch.equal(together.tokens[row, :count], alone.tokens[0])
        assert (together.logprobs[row, :count] - alone.logprobs[0]).abs().max() < tolerance
        assert (together.ends[row], together.passes[row]) == (count, alone.passes[0])
        assert [token for token in text if token is not None] == alone.tokens[0][~alone.placed[0]].tolist()
        assert (evaluated(model, alone.tokens, text, turn) - alone.logprobs[0])[alone.placed[0]].abs().max() < tolerance


def evaluated(model: ARMD, tokens: torch.Tensor, text: list[int | None], turns: list[int]) -> torch.Tensor:
    """Log-probabilities [places] of a text as the evaluator has them: known tokens left to right, then the holes."""
    known = sum(token is not None for token in text)
    ranks, remaining = iter(range(1, known + 1)), iter(turns)
    order = from_blocks(np.array([known + next(remaining) if token is None else next(ranks) for token in text]))
    places, blocks = torch.from_numpy(order.position), torch.from_numpy(order.block)
    nll = window_nll(model, tokens, places, blocks, BOS)[0]
    return torch.empty_like(nll).scatter(0, places - 1, -nll)
