"""Perplexities against teacher-forced cross-entropy, on a small dataset built by the data pipeline."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from full_pass import window_nll
from scored import evaluate, strided
from toys import tiny_model

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.study import parse_numbers
from armd_dist.evaluation.unigram import token_counts, unigram_perplexity
from armd_dist.model.armd import ARMD
from armd_dist.model.layout import lay_out
from armd_dist.orders import schemes
from data_pipeline.stream import TokenStream
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

LENGTH = 10
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "while",
    "seven",
    "wizards",
    "brew",
    "potent",
    "elixirs",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    draw = random.Random(0)
    text = "\n\n".join(" ".join(draw.choices(WORDS, k=12)) + "." for _ in range(30))
    pages = folder / "pages.jsonl"
    pages.write_text("".join(json.dumps({"text": part}) + "\n" for part in text.split("\n\n")))
    tokenizer = train_tokenizer([str(pages)], folder / "tokenizer.model", 320).path
    build_dataset([str(pages)], tokenizer, folder / "data")
    return folder / "data" / "train"


@pytest.fixture(scope="module")
def stream(data: Path) -> TokenStream:
    return TokenStream(data, LENGTH, seed=0)


@pytest.fixture(scope="module")
def model(stream: TokenStream) -> ARMD:
    return tiny_model(vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)


def test_ppl_1_is_teacher_forced_cross_entropy(model: ARMD, stream: TokenStream) -> None:
    """Token by token: each prefix in a pass of its own, log-probabilities by hand."""
    windows = torch.from_numpy(stream.windows(np.arange(stream.num_windows)))
    total = 0.0
    for length in range(1, LENGTH + 1):
        prefix = windows[:, :length]
        unknown = torch.cat((prefix[:, :-1], torch.zeros(len(windows), 1, dtype=torch.int64)), dim=1)
        at = torch.arange(1, length + 1).expand_as(prefix)
        with torch.no_grad():
            logits = model(lay_out(unknown, at, at, stream.manifest.bos_id))[-1, :, : stream.manifest.vocab_size]
        total -= logits.log_softmax(-1).gather(1, prefix[:, -1:]).sum().item()
    found = evaluate(model, stream, strided(1), batch_size=7)
    assert found.value == pytest.approx(math.exp(total / windows.numel()), rel=1e-6)
    assert found.tokens == windows.numel()
    assert found.steps == LENGTH
    assert found.parallel is None
    assert found.heads == pytest.approx(found.value)


@pytest.mark.parametrize("streams", [2, 3, 5, 7])
def test_heads_and_parallel_phase_recombine(model: ARMD, stream: TokenStream, streams: int) -> None:
    found = evaluate(model, stream, strided(streams))
    blocks = schemes.strided_blocks(LENGTH, streams)
    heads = len(strided_heads(streams))
    assert found.parallel is not None
    together = (heads * math.log(found.heads) + (LENGTH - heads) * math.log(found.parallel)) / LENGTH
    assert math.log(found.value) == pytest.approx(together, abs=1e-10)
    assert found.steps == blocks.max()


def strided_heads(streams: int) -> list[int]:
    return list(range(0, LENGTH, math.ceil(LENGTH / streams)))


def test_heads_are_the_first_places_of_the_streams(model: ARMD, stream: TokenStream) -> None:
    order = schemes.strided(LENGTH, 3)
    positions, blocks = torch.from_numpy(order.position), torch.from_numpy(order.block)
    windows = torch.from_numpy(stream.windows(np.arange(stream.num_windows)))
    nll = window_nll(model, windows, positions, blocks, stream.manifest.bos_id)
    is_head = torch.tensor([int(place) - 1 in strided_heads(3) for place in order.position])
    assert evaluate(model, stream, strided(3)).heads == pytest.approx(math.exp(nll[:, is_head].mean()), rel=1e-9)


def test_as_many_streams_as_tokens_have_no_parallel_phase(model: ARMD, stream: TokenStream) -> None:
    found = evaluate(model, stream, strided(LENGTH))
    assert found.parallel is None
    assert found.value == pytest.approx(evaluate(model, stream, strided(1)).value, rel=1e-9)


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_interval_holds_the_value_and_repeats(model: ARMD, stream: TokenStream, streams: int) -> None:
    found, again = (evaluate(model, stream, strided(streams)) for _ in range(2))
    assert found == again
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    assert found.high / found.low < 1.5


def test_batch_size_changes_nothing_and_progress_counts_windows(model: ARMD, stream: TokenStream) -> None:
    done: list[int] = []
    small = evaluate(model, stream, strided(2), batch_size=3, advance=done.append)
    large = evaluate(model, stream, strided(2), batch_size=1000)
    assert small.value == pytest.approx(large.value, rel=1e-12)
    assert sum(done) == stream.num_windows
    assert set(done[1:-1]) == {3}, "the first call tells of what was there already"


def test_parse_numbers() -> None:
    assert parse_numbers("--streams", "1,2, 4") == [1, 2, 4]
    for text in ("", "1,", "a", "0,1", "-2"):
        with pytest.raises(EvaluationError, match=r"--blocks .*: is not a list of positive numbers"):
            parse_numbers("--blocks", text)


def test_unigram_baseline(stream: TokenStream) -> None:
    tokens = stream.windows(np.arange(stream.num_windows)).ravel().tolist()
    vocab = stream.manifest.vocab_size
    assert token_counts(stream).tolist() == [tokens.count(token) for token in range(vocab)]
    nats = -sum(math.log((tokens.count(t) + 1) / (len(tokens) + vocab)) for t in tokens) / len(tokens)
    assert unigram_perplexity(stream, stream) == pytest.approx(math.exp(nats))
