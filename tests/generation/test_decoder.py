"""The decoder: passes, seeds, greedy decoding, ends, limits. That it equals the full pass is among the properties."""

from typing import Any

import numpy as np
import pytest
import torch
from toys import BOS, tiny_model

from armd_dist.generation import decoder
from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling, sample
from armd_dist.model.layout import lay_out
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.strided import strided_places

Blocks = list[list[int]]
HOT = Sampling(temperature=4.0)  # every token has its chance


def behind(
    prompt: list[int], blocks: Blocks, sampling: Sampling | None = None, seeds: tuple[int, ...] = (0, 1), **more: int
) -> Generated:
    """Texts of one prompt and one order, one for each seed."""
    turns = turns_of(blocks)
    ids, when = make_batch([[*prompt, *[None] * len(turns)]] * len(seeds), [turns] * len(seeds), BOS)
    return decode(tiny_model(vocab_size=8), ids, when, sampling or Sampling(), BOS, seeds, **more)


@pytest.mark.parametrize("prompt", [0, 3])
def test_places_of_a_block_in_any_order(prompt: int) -> None:
    sorted_blocks, shuffled = [[1, 3], [0, 2, 4]], [[3, 1], [4, 0, 2]]
    made = [behind([5] * prompt, b, Sampling(0)) for b in (sorted_blocks, shuffled)]
    assert torch.equal(made[0].tokens, made[1].tokens)
    torch.testing.assert_close(made[0].logprobs, made[1].logprobs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "streams"), [(8, 1), (8, 2), (12, 4), (9, 3)])
def test_number_of_passes(length: int, streams: int) -> None:
    made = behind([], strided_places(length, streams))
    assert made.passes == [streams + length // streams - 1] * 2
    assert made.tokens.shape == made.logprobs.shape == (2, length)
    assert made.ends == [length] * 2


def test_seed_decides_the_text() -> None:
    one, again, other = (behind([], strided_places(8, 2), seeds=(seed,)) for seed in (1, 1, 2))
    assert torch.equal(one.tokens, again.tokens)
    assert torch.equal(one.logprobs, again.logprobs)
    assert not torch.equal(one.tokens, other.tokens)


def test_greedy_takes_the_likeliest_token_given_its_own_past() -> None:
    made = behind([], [[0], [1], [2]], Sampling(temperature=0))
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
    made = behind([], [[place] for place in range(20)], Sampling(temperature=50.0))
    assert made.tokens.max() < 8


def test_penalty_falls_on_what_a_row_can_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known tokens, wherever they stand, and those of earlier blocks; not BOS, nor what another text or padding has."""
    shown: list[torch.Tensor] = []

    def spy(logits: torch.Tensor, sampling: Sampling, uniforms: torch.Tensor, seen: torch.Tensor) -> Any:
        shown.append(seen.clone())
        return sample(logits, sampling, uniforms, seen)

    monkeypatch.setattr(decoder, "sample", spy)
    texts: list[list[int | None]] = [[3, None, None, None, 4], [None, None]]
    turns = [[1, 2, 2], [1, 3]]
    ids, when = make_batch(texts, turns, BOS)
    made = decode(tiny_model(vocab_size=8), ids, when, Sampling(repetition_penalty=2.0), BOS, [0, 1])
    for number, seen in enumerate(shown, start=1):
        for row, text in enumerate(texts):
            earlier = {int(made.tokens[row, n]) for n in range(len(text)) if when[row, n] < number}
            assert set(seen[row].nonzero()[:, 0].tolist()) == earlier
    assert len(shown) == 3


@pytest.mark.parametrize("streams", [1, 3])
def test_text_ends_at_its_first_end_of_text(streams: int) -> None:
    """No token before it changes, no pass is run that only places behind it need, and each text ends by itself."""
    blocks, seeds, eos = strided_places(12, streams), tuple(range(30)), 6
    turns = turns_of(blocks)
    whole, cut = behind([2], blocks, HOT, seeds), behind([2], blocks, HOT, seeds, eos_id=eos)
    early = 0
    for row, seed in enumerate(seeds):
        tokens = whole.tokens[row, 1:].tolist()
        end = cut.ends[row] - 1
        assert end == (tokens.index(eos) + 1 if eos in tokens else 12)
        assert torch.equal(cut.tokens[row, : end + 1], whole.tokens[row, : end + 1])
        assert torch.equal(cut.logprobs[row, : end + 1], whole.logprobs[row, : end + 1])
        assert cut.passes[row] == max(turns[:end])
        assert cut.placed[row, 1:].tolist() == [turn <= cut.passes[row] for turn in turns]
        early += cut.passes[row] < whole.passes[row]
        alone = behind([2], blocks, HOT, (seed,), eos_id=eos)
        assert (alone.ends, alone.passes) == ([cut.ends[row]], [cut.passes[row]])
        assert torch.equal(alone.tokens[0], cut.tokens[row])
    assert early > 5, "the comparison must have something to compare"


def test_end_of_text_before_known_text_ends_nothing() -> None:
    eos = 6
    ids, turns = make_batch([[None, 3, None, None]] * 40, [[1, 2, 3]] * 40, BOS)
    made = decode(tiny_model(vocab_size=8), ids, turns, HOT, BOS, range(40), eos)
    starts = (made.tokens[:, 0] == eos) & (made.tokens[:, 2] != eos)
    assert starts.any()
    assert all(made.ends[row] == 4 for row in starts.nonzero()[:, 0].tolist())
    assert 3 in made.ends


@pytest.mark.parametrize("shape", ["prompt", "hole"])
def test_too_long_for_the_model(shape: str) -> None:
    text: list[int | None] = [7] * 20 + [None] * 5
    ids, turns = make_batch([text if shape == "prompt" else text[::-1], [None]], [[1, 2, 3, 4, 5], [1]], BOS)
    with pytest.raises(ValueError, match="20 known tokens and 5 new ones exceed the model's length of 24"):
        decode(tiny_model(), ids, turns, Sampling(), BOS, [0, 1])
