"""Texts that join and leave a batch at different times are what they are alone."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from toys import BOS, CONTEXTS, tiny_model

from armd_dist.generation.continuous import ContinuousDecoder
from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch
from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.generation.underway import Text
from armd_dist.model.armd import ARMD

EOS = 6
HOT = Sampling(temperature=3.0)
SAMPLINGS = [Sampling(0), HOT, Sampling(2.0, top_k=7, repetition_penalty=1.3), Sampling(top_p=0.8, min_p=0.01)]
ORDERINGS = [Ordering("strided", streams) for streams in (1, 2, 4)]
ORDERINGS += [Ordering("random"), Ordering("block", block_size=3)]


def texts_of(count: int, sampling: Sampling | None = None) -> list[Text]:
    """Prompts and holes of many lengths, in every order, each drawn in a way of its own."""
    made = []
    for number in range(count):
        draw = np.random.default_rng(number)
        known = [int(token) for token in draw.integers(2, 8, size=draw.integers(0, 12))]
        new = int(draw.integers(4, 12))
        ids: list[int | None] = [*known, *[None] * new]
        if number % 3 == 2:
            ids = [ids[place] for place in draw.permutation(len(ids))]
        turns = ORDERINGS[number % len(ORDERINGS)].turns(new, number)
        drawn = sampling or SAMPLINGS[number % len(SAMPLINGS)]
        made.append(Text(Prepared(Request((), seed=number), ids, turns), drawn, BOS, EOS, top=number % 3))
    return made


def run(model: ARMD, texts: Sequence[Text], slots: int, at_once: int = 3) -> int:
    """Decodes them all, some joining at each step as slots come free; returns the steps."""
    decoder, waiting, steps = ContinuousDecoder(model, slots), list(texts), 0
    while waiting or decoder.texts:
        room = min(decoder.free, at_once)
        decoder.step(waiting[:room])
        waiting = waiting[room:]
        steps += 1
    assert decoder.free == slots
    return steps


def assert_as_alone(model: ARMD, text: Text, tolerance: float) -> None:
    prepared = text.prepared
    ids, turns = make_batch([prepared.ids], [prepared.turns], BOS)
    alone = decode(model, ids, turns, text.sampling, BOS, [prepared.request.seed], EOS)
    assert (text.end, text.number) == (alone.ends[0], alone.passes[0])
    mine = alone.placed[0, : text.end].numpy()
    assert text.generated(text.end).tolist() == mine.nonzero()[0].tolist()
    assert text.tokens[1 : text.end + 1].tolist() == alone.tokens[0, : text.end].tolist()
    assert np.abs(text.logprobs[1 : text.end + 1] - alone.logprobs[0, : text.end].numpy()).max() < tolerance


CASES = [(context, 2, 4) for context in CONTEXTS] + [("neighbours", 0, 4), ("both", 4, 12)]


@pytest.mark.parametrize(("context", "two_stream", "slots"), CASES)
def test_texts_that_come_and_go_are_what_they_are_alone(context: str, two_stream: int, slots: int) -> None:
    layers = max(two_stream, 3)
    model = tiny_model(vocab_size=8, num_layers=layers, query_context=context, two_stream_layers=two_stream)
    texts = texts_of(15)
    steps = run(model, texts, slots)
    for text in texts:
        assert_as_alone(model, text, 1e-10)
    assert any(text.end < len(text.turns) for text in texts), "some must end early"
    assert steps < sum(text.number for text in texts) / 2, "they must run together"


@pytest.mark.parametrize(
    "changes",
    [{"num_key_value_heads": 1, "two_stream_layers": 4}, {"position_embedding": "rotary", "query_place": "previous"}],
)
def test_other_networks(changes: dict) -> None:
    model = tiny_model(**changes)
    texts = texts_of(8)
    run(model, texts, slots=5)
    for text in texts:
        assert_as_alone(model, text, 1e-10)


def test_single_precision() -> None:
    model = tiny_model(dtype=torch.float32)
    texts = texts_of(8, Sampling(0))
    run(model, texts, slots=5)
    for text in texts:
        assert_as_alone(model, text, 1e-4)


def test_one_that_leaves_early_frees_its_slot_and_changes_nobody() -> None:
    model = tiny_model()
    texts = texts_of(9)
    decoder = ContinuousDecoder(model, 4)
    decoder.step(texts[:4])
    decoder.step()
    staying = [text for text in texts[:4] if not text.done]
    decoder.leave(gone := staying.pop(0))
    free = decoder.free
    decoder.step(texts[4 : 4 + free])
    number = gone.number
    while decoder.texts:
        decoder.step()
    assert gone.number == number
    assert free >= 1
    for text in [*staying, *texts[4 : 4 + free]]:
        assert_as_alone(model, text, 1e-10)


def test_leading_places_that_are_final_grow_and_stay() -> None:
    model = tiny_model()
    for text in texts_of(10):
        decoder, seen = ContinuousDecoder(model, 1), []
        decoder.step([text])
        while True:
            seen.append(text.tokens[1 : text.final + 1].tolist())
            assert text.final == text.end or text.turns[text.final] > text.number
            assert all(text.turns[place] == text.number for place in text.placed())
            if text.done:
                break
            decoder.step()
        assert text.final == text.end
        final = text.tokens[1 : text.end + 1].tolist()
        assert all(final[: len(part)] == part for part in seen)


def test_likeliest_tokens_are_the_models_own() -> None:
    model = tiny_model()
    (text,) = texts_of(1, Sampling(0))
    text.top = 3
    run(model, [text], 1)
    places = text.generated(text.end).tolist()
    assert len(places) > 3
    for place in places:
        tops = text.tops[place]
        assert len(tops) == 3
        assert tops[0] == (text.tokens[place + 1], pytest.approx(text.logprobs[place + 1], abs=1e-12))
        assert sorted((nats for _, nats in tops), reverse=True) == [nats for _, nats in tops]


def test_numbers_that_are_not_finite_leave_with_their_text() -> None:
    """What a mask hides weighs nothing, but nothing times NaN is NaN."""
    model, poison = tiny_model(vocab_size=12), 13  # a row of padding, which nobody draws
    with torch.no_grad():
        model.tokens.get_parameter("weight")[poison] = float("nan")
    bad = Text(Prepared(Request(()), [*[2] * 17, poison, None], [1]), HOT, BOS, None)
    long = Text(Prepared(Request(()), [*[3] * 15, *[None] * 8], list(range(1, 9))), HOT, BOS, None)
    short = Text(Prepared(Request(()), [4, None, None, None], [1, 2, 3]), HOT, BOS, None)
    decoder = ContinuousDecoder(model, 2)
    decoder.step([bad, long])
    assert bad.done
    assert np.isnan(bad.logprobs).any()
    decoder.step([short])  # where the bad one was, padded to the columns of the long one
    while decoder.texts:
        decoder.step()
    for text in (long, short):
        assert np.isfinite(text.logprobs).all()


def test_too_many_and_too_long() -> None:
    decoder = ContinuousDecoder(tiny_model(), 2)
    with pytest.raises(ValueError, match="3 texts join, and 2 of 2 slots are free"):
        decoder.step(texts_of(3))
    prepared = Prepared(Request(()), [*[7] * 20, *[None] * 5], [1, 2, 3, 4, 5])
    with pytest.raises(ValueError, match="20 known tokens and 5 new ones exceed the model's length of 24"):
        decoder.step([Text(prepared, HOT, BOS, EOS)])
    assert decoder.texts == []
