"""Text that comes token by token is the text of all tokens at once; stops are found wherever they lie."""

from pathlib import Path

import numpy as np
import pytest

from armd_dist.generation.requests import Ordering, Prepared, Request
from armd_dist.generation.sampling import Sampling
from armd_dist.generation.underway import Text
from armd_dist.serving.engine import Landed, Step
from armd_dist.serving.written import Spelling, Written
from data_pipeline.tokenizer import Tokenizer

HARD = "naïve 汉字 👨‍👩‍👧‍👦 \ufffd end\n\t  x"


@pytest.fixture(scope="module")
def tokenizer(dataset: Path) -> Tokenizer:
    return Tokenizer.load(dataset / "held_out" / "tokenizer.model")


def spelled(tokenizer: Tokenizer, tokens: list[int]) -> str:
    spelling, seen = Spelling(tokenizer), [""]
    for token in tokens:
        spelling.push(token)
        assert spelling.text.startswith(seen[-1])
        seen.append(spelling.text)
    spelling.flush()
    assert spelling.text.startswith(seen[-1])
    return spelling.text


def test_spelling_equals_decoding(tokenizer: Tokenizer) -> None:
    assert spelled(tokenizer, tokenizer.encode(HARD)) == HARD
    draw = np.random.default_rng(0)
    for _ in range(300):
        tokens = draw.integers(0, tokenizer.vocab_size, size=12).tolist()
        assert spelled(tokenizer, tokens) == tokenizer.decode(tokens)
    bytes_alone = [token for token in range(tokenizer.vocab_size) if tokenizer.pieces([token])[0].startswith("<0x")]
    assert len(bytes_alone) == 256
    for _ in range(300):
        tokens = [bytes_alone[n] for n in draw.integers(0, 256, size=8)]
        assert spelled(tokenizer, tokens) == tokenizer.decode(tokens)


def answer(tokenizer: Tokenizer, words: str, stops: list[str]) -> tuple[str, Written]:
    """What is sent of a text that comes a token at a time."""
    tokens = tokenizer.encode(words)
    prepared = Prepared(Request(()), [None] * len(tokens), Ordering().turns(len(tokens), 0))
    written = Written(Text(prepared, Sampling(0), 1, tokenizer.eos_id), tokenizer, stops)
    sent = ""
    for place, token in enumerate(tokens):
        last = place + 1 == len(tokens)
        written.take(Step([Landed(place, token, -1.0, ())], place + 1, len(tokens), last))
        sent += written.unsent()[0]
        assert words.startswith(sent)
    return sent, written


@pytest.mark.parametrize(
    ("stops", "kept"),
    [
        ([], "one two  three, and four"),
        (["nowhere"], "one two  three, and four"),
        (["  "], "one two"),
        (["three, and", "two"], "one "),
        (["hree, an", "four"], "one two  t"),
        (["r"], "one two  th"),
        (["our", "ou", "fourth"], "one two  three, and f"),
        (["one"], ""),
    ],
)
def test_stops(stops: list[str], kept: str, tokenizer: Tokenizer) -> None:
    sent, written = answer(tokenizer, "one two  three, and four", stops)
    assert sent == written.text == kept
    assert written.finish == ("length" if len(kept) == 24 else "stop")
    assert all(offset < len(kept) for offset in written.offsets)
    assert tokenizer.decode([landed.token for landed in written.tokens]).startswith(kept)


def test_the_beginning_of_a_stop_is_held_back(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a value of")
    prepared = Prepared(Request(()), [None] * len(tokens), Ordering().turns(len(tokens), 0))
    written = Written(Text(prepared, Sampling(0), 1, tokenizer.eos_id), tokenizer, [" value on"])
    seen = []
    for place, token in enumerate(tokens):
        written.take(Step([Landed(place, token, -1.0, ())], place + 1, len(tokens), place + 1 == len(tokens)))
        seen.append(written.unsent()[0])
    assert seen[0] == "a"
    assert set(seen[1:-1]) == {""}
    assert seen[-1] == " value of"


def test_an_end_of_text_is_a_stop(tokenizer: Tokenizer) -> None:
    ids: list[int | None] = [None, None, 5]
    for known, reason in ((3, "length"), (2, "stop")):
        prepared = Prepared(Request(()), ids[:known], Ordering().turns(2, 0))
        written = Written(Text(prepared, Sampling(0), 1, tokenizer.eos_id), tokenizer, [])
        landed = [Landed(0, 5, -1.0, ()), Landed(1, tokenizer.eos_id, -1.0, ())]
        written.take(Step(landed, 2, known, True))
        assert (written.finish, len(written.tokens)) == (reason, 2)
