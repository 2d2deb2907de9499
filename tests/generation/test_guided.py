"""ARMD in the order of a network that learned one: where, as the guide says; what, as ARMD's own full pass says."""

import math

import pytest
import torch
from full_pass import window_nll
from learners import learner
from toys import BOS, tiny_model

from armd_dist.generation.guided import GuidedARMD, GuidedDecoding
from armd_dist.generation.learned import Pace
from armd_dist.generation.requests import Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.objectives.learned_order import reader

TEXTS: list[list[int | None]] = [[7, *[None] * 6], [None] * 4, [4, None, 9, None, None, 3], [None] * 7]


def model() -> GuidedARMD:
    return GuidedARMD(tiny_model(vocab_size=30), learner(vocab=30))


def begin(pair: GuidedARMD, texts: list[list[int | None]], pace: Pace, first_seed: int = 0) -> GuidedDecoding:
    asked = [
        Prepared(Request((), first_seed + number), text, [1] * text.count(None), pace)
        for number, text in enumerate(texts)
    ]
    return GuidedDecoding(pair, asked, Sampling(), BOS, None)


def run(decoding: GuidedDecoding) -> GuidedDecoding:
    while decoding.open:
        decoding.step()
    return decoding


@pytest.mark.parametrize("pace", [Pace(), Pace(at_once=2)], ids=str)
def test_tokens_are_those_of_a_full_pass_in_the_order_that_came_about(pace: Pace) -> None:
    pair = model()
    decoding = run(begin(pair, TEXTS, pace))
    made, turns = decoding.result(), decoding.turns
    assert made.placed.sum(1).tolist() == [text.count(None) for text in TEXTS]
    for row, text in enumerate(TEXTS):
        mine, known = turns[row, : len(text)].tolist(), len(text) - text.count(None)
        # What is known comes first, one token a block, left to right.
        order = sorted(range(len(text)), key=lambda place: (mine[place], place))
        blocks = [number if mine[place] == 0 else known + mine[place] for number, place in enumerate(order, start=1)]
        whole = made.tokens[row : row + 1, : len(text)]
        wanted = -window_nll(pair.armd, whole, torch.tensor(order) + 1, torch.tensor(blocks), BOS)[0]
        torch.testing.assert_close(made.logprobs[row, order][known:], wanted[known:], rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_guide_says_where() -> None:
    """Each pass fills the two places that it ranks highest, given what stands there by then."""
    pair = model()
    decoding = run(begin(pair, TEXTS[:1], Pace(at_once=2)))
    tokens, turns, read = decoding.result().tokens, decoding.turns, reader(pair.guide, BOS)
    for number in range(1, decoding.number + 1):
        hidden = turns >= number
        highest = read(tokens.where(~hidden, 0), hidden).scheduler.log_next(hidden)[0].topk(2).indices
        assert sorted(torch.nonzero(turns[0] == number)[:, 0].tolist()) == sorted(highest.tolist())


def test_a_text_depends_on_itself_and_its_seed() -> None:
    pair = model()
    together = run(begin(pair, TEXTS, Pace())).result()
    for row, text in enumerate(TEXTS):
        alone = run(begin(pair, [text], Pace(), first_seed=row)).result()
        assert alone.tokens[0].tolist() == together.tokens[row, : len(text)].tolist()
        assert alone.passes[0] == together.passes[row] == text.count(None)


def test_a_guide_without_preferences_draws_every_order_alike() -> None:
    pair = GuidedARMD(tiny_model(vocab_size=30), learner(vocab=30, order_spread=0.0))
    count = 3000
    turns = run(begin(pair, [[None] * 3 for _ in range(count)], Pace())).turns
    orders = [tuple(row) for row in turns.tolist()]
    assert len(set(orders)) == 6
    for order in set(orders):
        assert abs(orders.count(order) / count - 1 / 6) < 4.5 * math.sqrt(5 / 36 / count)
