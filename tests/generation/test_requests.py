"""Orders by name, holes in a text, and requests that cannot be answered."""

from pathlib import Path

import pytest
from toys import tiny_model

from armd_dist.errors import GenerationError
from armd_dist.generation.requests import Ordering, Request, parse_infill, prepare
from data_pipeline.tokenizer import Tokenizer


def test_orders() -> None:
    assert Ordering("left_to_right").turns(4, 0) == [1, 2, 3, 4]
    assert Ordering("strided", 2).turns(6, 0) == [1, 3, 4, 2, 3, 4]
    assert Ordering("block", block_size=2).turns(5, 0) == [1, 1, 2, 2, 3]
    drawn = [Ordering("random").turns(9, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert sorted(drawn[2]) == list(range(1, 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("random", 4), "streams=4: is for --order strided"),
        (("strided", 1, 2), "block_size=2: is for --order block"),
        (("block",), "block_size=None: --order block needs"),
    ],
)
def test_settings_of_another_order(settings: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ordering(*settings)


def test_holes() -> None:
    assert parse_infill("a <hole:3> b<hole:1>") == ("a ", 3, " b", 1)
    assert parse_infill("<hole:12>") == (12,)
    for text, message in (("a ___ b", "has no hole"), ("a <hole:0>", "has a hole of 0 tokens")):
        with pytest.raises(GenerationError, match=message):
            parse_infill(text)


@pytest.fixture(scope="module")
def tokenizer(dataset: Path) -> Tokenizer:
    return Tokenizer.load(dataset / "held_out" / "tokenizer.model")


def test_prepared_text(tokenizer: Tokenizer) -> None:
    made = prepare(Request(("to be", 2, " that", 1), permutation=(2, 0, 1)), tokenizer, Ordering(), 24)
    left, right = tokenizer.encode("to be"), tokenizer.encode(" that")
    assert made.ids == [*left, None, None, *right, None]
    assert made.turns == [2, 3, 1]


@pytest.mark.parametrize(
    ("request_", "ordering", "message"),
    [
        (Request(("to be", 30)), Ordering(), "30 new ones exceed the model's length of 24"),
        (Request(("to be " * 30, 1)), Ordering(), "and 1 new ones exceed the model's length of 24"),
        (Request(("to be", 4)), Ordering("strided", 5), "streams=5: 4 tokens can be generated in 1 to 4 streams"),
        (Request(("to be", 2), permutation=(0, 0)), Ordering(), "is not one of 0 to 1; give each new token once"),
        (Request(("to be", 2), permutation=(1, 2)), Ordering(), "is not one of 0 to 1"),
    ],
)
def test_what_cannot_be_answered(tokenizer: Tokenizer, request_: Request, ordering: Ordering, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        prepare(request_, tokenizer, ordering, tiny_model().config.max_sequence_length)
