"""Decoding with a cache says exactly what one full pass over the finished text says."""

import numpy as np
import pytest
from checks import decode_against_full
from toys import CONTEXTS, tiny_model

from armd_dist.orders.order import from_blocks
from armd_dist.orders.schemes import any_order, left_to_right, masked_diffusion, strided

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
