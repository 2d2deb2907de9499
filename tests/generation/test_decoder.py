"""The decoder: passes, seeds, greedy decoding, limits. That it equals the full pass is among the properties."""

import numpy as np
import pytest
import torch
from toys import BOS, tiny_model

from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.sampling import Sampling
from armd_dist.model.layout import lay_out
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.strided import strided_places


def _decode(blocks: list[list[int]] | None = None, sampling: Sampling | None = None, seed: int = 0) -> Generated:
    prompt, generator = torch.zeros(2, 0, dtype=torch.int64), torch.Generator().manual_seed(seed)
    blocks = blocks or strided_places(8, 2)
    return decode(tiny_model(vocab_size=8), prompt, blocks, sampling or Sampling(), BOS, generator)


@pytest.mark.parametrize("prompt", [0, 3])
def test_places_of_a_block_in_any_order(prompt: int) -> None:
    model, ids = tiny_model(), torch.full((2, prompt), 5)
    sorted_blocks, shuffled = [[1, 3], [0, 2, 4]], [[3, 1], [4, 0, 2]]
    made = [decode(model, ids, b, Sampling(0), BOS, torch.Generator()) for b in (sorted_blocks, shuffled)]
    assert torch.equal(made[0].tokens, made[1].tokens)
    torch.testing.assert_close(made[0].logprobs, made[1].logprobs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "streams"), [(8, 1), (8, 2), (12, 4), (9, 3)])
def test_number_of_passes(length: int, streams: int) -> None:
    made = _decode(strided_places(length, streams))
    assert made.passes == streams + length // streams - 1
    assert made.tokens.shape == made.logprobs.shape == (2, length)


def test_seed_decides_the_text() -> None:
    one, again, other = _decode(seed=1), _decode(seed=1), _decode(seed=2)
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.logprobs, again.logprobs)
    assert not torch.equal(one.tokens, other.tokens)


def test_greedy_takes_the_likeliest_token_given_its_own_past() -> None:
    made = _decode([[0], [1], [2]], Sampling(temperature=0))
    for place in range(3):
        logprobs = []
        for token in range(8):
            ids = torch.cat((made.tokens[:1, :place], torch.tensor([[token]])), 1)
            logprobs.append(_logprob_of_last(ids))
        assert int(np.argmax(logprobs)) == int(made.tokens[0, place])


def _logprob_of_last(ids: torch.Tensor) -> float:
    at = torch.arange(1, ids.shape[1] + 1)[None]
    with torch.no_grad():
        return -token_nll(tiny_model(vocab_size=8), lay_out(ids, at, at, BOS), ids)[-1, 0].item()


def test_padding_of_the_vocabulary_is_never_drawn() -> None:
    made = _decode([[place] for place in range(20)], Sampling(temperature=50.0))
    assert made.tokens.max() < 8


def test_too_long_for_the_model() -> None:
    with pytest.raises(ValueError, match="a prompt of 20 tokens and 5 new ones exceed the model's length of 24"):
        decode(
            tiny_model(), torch.zeros(1, 20, dtype=torch.int64), [[0, 1, 2, 3, 4]], Sampling(), BOS, torch.Generator()
        )
