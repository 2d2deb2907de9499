"""Decoding in a learned order: what it draws is the reverse process, text by text, whatever stands beside it."""

import itertools
import math

import pytest
import torch
from toys import BOS, tiny_config

from armd_dist.generation.learned import LearnedDecoding, Pace
from armd_dist.generation.passes import KNOWN, make_batch
from armd_dist.generation.sampling import Sampling
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import reader
from armd_dist.objectives.schedulers import polynomial

SPREAD = torch.tensor([[0.4, 0.9, 0.2, 1.3]], dtype=torch.float64)


def learner(vocab: int = 30) -> LearnedOrderDenoiser:
    settings = {"network": "denoiser", "learned_order": True, "num_layers": 2, "vocab_size": vocab, "init_std": 1.0}
    config = tiny_config(**settings)
    model = LearnedOrderDenoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.double().eval()


def begin(
    model: LearnedOrderDenoiser,
    texts: list[list[int | None]],
    pace: Pace,
    seeds: list[int] | None = None,
    sampling: Sampling | None = None,
    eos: int | None = None,
) -> LearnedDecoding:
    holes = [[1] * text.count(None) for text in texts]
    drawn = seeds or list(range(len(texts)))
    return LearnedDecoding(model, *make_batch(texts, holes, BOS), sampling or Sampling(), BOS, drawn, eos, pace)


def run(decoding: LearnedDecoding) -> LearnedDecoding:
    while decoding.open:
        decoding.step()
    return decoding


@torch.no_grad()
def enumerated(model: LearnedOrderDenoiser, length: int) -> dict[tuple[int, ...], float]:
    """The chance of every text under the jump chain, by all orders and tokens."""
    read, vocab = reader(model, BOS), model.config.vocab_size
    chances: dict[tuple[int, ...], float] = {}

    def walk(ids: torch.Tensor, hidden: torch.Tensor, chance: float) -> None:
        if not hidden.any():
            text = tuple(ids[0].tolist())
            chances[text] = chances.get(text, 0.0) + chance
            return
        log_probabilities, scheduler = read(ids, hidden)
        of_place = scheduler.log_next(hidden)[0].exp()
        for place, token in itertools.product(torch.nonzero(hidden[0])[:, 0].tolist(), range(vocab)):
            one, other = ids.clone(), hidden.clone()
            one[0, place], other[0, place] = token, False
            walk(one, other, chance * of_place[place].item() * log_probabilities[0, place, token].exp().item())

    walk(torch.zeros(1, length, dtype=torch.long), torch.ones(1, length, dtype=torch.bool), 1.0)
    return chances


def test_one_place_a_pass_is_the_jump_chain() -> None:
    model, count = learner(vocab=3), 6000
    wanted = enumerated(model, 3)
    assert math.isclose(sum(wanted.values()), 1.0, rel_tol=1e-9)
    decoding = run(begin(model, [[None] * 3 for _ in range(count)], Pace()))
    assert decoding.number == 3
    found = [tuple(text) for text in decoding.result().tokens.tolist()]
    for text, chance in wanted.items():
        deviation = (chance * (1 - chance) / count) ** 0.5
        assert abs(found.count(text) / count - chance) < 4.5 * deviation + 1e-3


@pytest.mark.parametrize("steps", [1, 4])
def test_steps_reveal_each_place_by_its_own_chance(steps: int) -> None:
    """1 - (s / t)^w, and everything in the last step."""
    rows = 20_000
    scheduler, hidden = polynomial(SPREAD.expand(rows, -1)), torch.ones(rows, 4, dtype=torch.bool)
    hidden[:, 3] = False
    uniforms = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0)).double()
    chosen = Pace(steps=steps).choose(scheduler, hidden, uniforms, number=1)
    wanted = 1 - ((steps - 1) / steps) ** SPREAD[0, :3]
    torch.testing.assert_close(chosen[:, :3].double().mean(0), wanted, rtol=0, atol=0.015)
    assert not chosen[:, 3].any()
    assert Pace(steps=steps).choose(scheduler, hidden, uniforms, number=steps).equal(hidden)


def test_at_once_takes_the_highest_and_one_alone_is_drawn() -> None:
    rows = 20_000
    scheduler, hidden = polynomial(SPREAD.expand(rows, -1)), torch.ones(rows, 4, dtype=torch.bool)
    hidden[:, 3] = False
    uniforms = torch.rand(rows, 4, generator=torch.Generator().manual_seed(0)).double()
    highest = Pace(at_once=2).choose(scheduler, hidden, uniforms, number=1)
    assert highest.equal(torch.tensor([True, True, False, False]).expand(rows, -1))
    assert Pace(at_once=9).choose(scheduler, hidden, uniforms, number=1).equal(hidden), "no more than there are"
    drawn = Pace().choose(scheduler, hidden, uniforms, number=1)
    assert (drawn.sum(1) == 1).all()
    shares = SPREAD[0, :3] / SPREAD[0, :3].sum()
    torch.testing.assert_close(drawn[:, :3].double().mean(0), shares, rtol=0, atol=0.015)


@pytest.mark.parametrize("pace", [Pace(), Pace(steps=3), Pace(at_once=2)], ids=str)
def test_a_text_depends_on_itself_and_its_seed(pace: Pace) -> None:
    """Lengths differ, some have known text on both sides; neighbours, and where they stand, change nothing."""
    model = learner()
    texts: list[list[int | None]] = [[7, *[None] * 5], [None] * 3, [4, None, 9, None, None, 3], [None] * 6]
    together = run(begin(model, texts, pace)).result()
    for row, text in enumerate(texts):
        alone = run(begin(model, [text], pace, [row])).result()
        length = len(text)
        assert alone.tokens[0].tolist() == together.tokens[row, :length].tolist()
        torch.testing.assert_close(alone.logprobs[0], together.logprobs[row, :length], rtol=0, atol=1e-10)
        assert alone.passes[0] == together.passes[row]
        assert [one for one in text if one is not None] == [
            token for token, known in zip(together.tokens[row].tolist(), text, strict=False) if known is not None
        ]
    assert together.placed.sum(1).tolist() == [text.count(None) for text in texts]
    assert run(begin(model, texts, pace, [9, 8, 7, 6])).result().tokens.ne(together.tokens).any()


@torch.no_grad()
def test_log_probabilities_are_the_networks_given_what_stood_there() -> None:
    model = learner()
    decoding = run(begin(model, [[5, *[None] * 6]], Pace(at_once=2), sampling=Sampling(temperature=0.0)))
    made, turns, read = decoding.result(), decoding.turns, reader(model, BOS)
    for number in range(1, decoding.number + 1):
        hidden = turns >= number
        of_tokens = read(made.tokens.where(~hidden, 0), hidden).log_probabilities[0]
        for place in torch.nonzero(turns[0] == number)[:, 0].tolist():
            token = int(made.tokens[0, place])
            assert token == int(of_tokens[place].argmax())
            assert math.isclose(made.logprobs[0, place].item(), of_tokens[place, token].item(), abs_tol=1e-10)


def test_a_text_is_over_at_its_end() -> None:
    """No place before the first end of text behind the prompt is open; places behind it stay unfilled."""
    model, ended = learner(vocab=4), 0
    decoding = run(begin(model, [[2, *[None] * 9] for _ in range(30)], Pace(), eos=2))
    made = decoding.result()
    for row in range(30):
        end, tokens = made.ends[row], made.tokens[row].tolist()
        assert (decoding.turns[row, 1:end] > KNOWN).all()
        assert made.placed[row, 1:end].all(), "all before the end is filled"
        first = next((at for at in range(1, 10) if tokens[at] == 2 and made.placed[row, at]), 9)
        assert end == first + 1
        ended += end < 10 and made.passes[row] < 9
    assert ended > 3, "some were over early"
