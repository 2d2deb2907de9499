"""What is scored, and once each: windows that share documents, long documents, contexts, texts of all lengths."""

import itertools
import math

import numpy as np
import pytest
import torch
from scored import any_orders, strided, tokenizer_of, windows_of
from toys import tiny_model

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.evaluate import Evaluation, figures
from armd_dist.evaluation.items import Passages, Source, make_batches, spans
from armd_dist.evaluation.journal import Record
from armd_dist.evaluation.perplexity import accuracy, documents, price, summarize
from armd_dist.evaluation.schemes import Ordered, Scheme
from armd_dist.evaluation.scoring import Scorer, score_items
from armd_dist.evaluation.texts import Document
from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch
from armd_dist.generation.requests import Ordering
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

LENGTH = 12
BLOCKS = Ordered("block_3", Ordering("block", block_size=3))


@pytest.fixture(scope="module")
def stream(dataset: object) -> TokenStream:
    return TokenStream(f"{dataset}/held_out", LENGTH, seed=0)


@pytest.fixture(scope="module")
def tokenizer(stream: TokenStream) -> Tokenizer:
    return tokenizer_of(stream)


@pytest.fixture(scope="module")
def model(stream: TokenStream) -> ARMD:
    return tiny_model(vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)


def records(model: ARMD, source: Source, scheme: Scheme, bos_id: int, batch_size: int = 4) -> list[Record]:
    return Evaluation(Scorer(model), source, bos_id, batch_size).records(scheme)


@pytest.mark.parametrize(
    ("context", "total"), [(0, 30), (0, 10), (0, 11), (4, 10), (7, 30), (15, 30), (29, 30), (0, 1)]
)
@pytest.mark.parametrize("stride", [1, 3, 10])
def test_every_token_is_scored_once_and_windows_fit(context: int, total: int, stride: int) -> None:
    found = spans(context, total, 10, stride)
    scored = [place for _, first, end in found for place in range(first, end)]
    assert scored == list(range(context, total))
    for begin, first, end in found:
        assert begin <= first < end <= begin + 10
    if total > 10 and stride < 10 and not context:  # every later token sees at least what windows share
        assert all(first - begin >= 10 - stride for begin, first, _ in found[1:])


def test_a_context_too_long_loses_its_beginning() -> None:
    assert spans(context=25, total=30, length=10, stride=10) == [(20, 25, 30)]


def test_batches_hold_every_item_once_long_ones_first() -> None:
    shapes = [(3, 0), (9, 2), (3, 0), (5, 0), (9, 0), (9, 2)]
    ragged, alike = make_batches(shapes, 2, ragged=True), make_batches(shapes, 2, ragged=False)
    assert ragged == [[4, 1], [5, 3], [0, 2]]
    assert alike == [[4], [1, 5], [3], [0, 2]]


def test_documents_of_windows_are_those_of_the_dataset(model: ARMD, stream: TokenStream) -> None:
    """A document that several windows hold parts of is one; its nats add up."""
    source = windows_of(stream)
    found = records(model, source, strided(1), stream.manifest.bos_id, batch_size=64)
    tokens = stream.tokens(0, stream.num_windows * LENGTH)
    sizes = np.diff(np.unique([-1, *np.flatnonzero(tokens == stream.manifest.eos_id), len(tokens) - 1]))
    assert 3 < len(sizes) < stream.num_windows / 10, "documents are longer than windows"
    assert [count for _, count, _ in documents(found)] == sizes.tolist()
    total = math.fsum(nats for nats, _, _ in documents(found))
    value = figures(strided(1), source, found).value
    assert value == pytest.approx(math.exp(total / len(tokens)), rel=1e-12)


def test_bits_count_the_bytes_of_the_text(model: ARMD, stream: TokenStream, tokenizer: Tokenizer) -> None:
    source = windows_of(stream, 60)
    found = figures(strided(2), source, records(model, source, strided(2), stream.manifest.bos_id))
    tokens = stream.tokens(0, 60 * LENGTH)
    text = len(tokenizer.decode([int(token) for token in tokens]).encode())
    assert found.bytes == text
    assert found.bits_per_byte == pytest.approx(math.log2(found.value) * found.tokens / text, rel=1e-12)


TEXTS = [
    "A short one.",
    "for x in range(10):\n    print(x, end=' ')\n" * 2,
    "é",
    "The value of the expression is None.",
]


@pytest.mark.parametrize("scheme", [strided(1), strided(2), strided(4), BLOCKS, any_orders(2)])
@pytest.mark.parametrize("context", ["", "See the "])
def test_texts_of_a_batch_score_as_alone(
    model: ARMD, stream: TokenStream, tokenizer: Tokenizer, scheme: Scheme, context: str
) -> None:
    """Padding is nowhere to be seen, nor are other texts; short texts have fewer streams."""
    given = [Document(text, context) for text in TEXTS]
    bos = stream.manifest.bos_id
    together = records(model, Passages(given, tokenizer, LENGTH, 5), scheme, bos, batch_size=100)
    one_by_one = records(model, Passages(given, tokenizer, LENGTH, 5), scheme, bos, batch_size=1)
    assert [len(parts) for parts, _ in together] == [1] * len(together)
    for (mine, ends), (alone, alone_ends) in zip(together, one_by_one, strict=True):
        assert ends == alone_ends
        assert mine[0][:3] == alone[0][:3]
        np.testing.assert_allclose(mine[0][4], alone[0][4], rtol=1e-12)
    found = summarize(together, None, None, weighted=False)
    assert found.documents == len(TEXTS)
    assert found.bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("scheme", [strided(1), strided(3), BLOCKS])
def test_the_decoder_reports_what_the_evaluator_finds(
    model: ARMD, stream: TokenStream, tokenizer: Tokenizer, scheme: Ordered
) -> None:
    """Log-probabilities of its own samples behind a prompt, and whether each was the likeliest."""
    bos = stream.manifest.bos_id
    prompt = tokenizer.encode("The ")
    turns = scheme.ordering.turns(7, 0)
    for sampling, greedy in ((Sampling(temperature=0.0), True), (Sampling(), False)):
        made = decode(model, *make_batch([[*prompt, *[None] * 7]], [turns], bos), sampling, bos, seeds=[3])
        tokens = made.tokens[0].numpy()
        source = _Tokens(tokens, len(prompt))
        ((found,),) = score_items(Scorer(model), scheme, source, [[0]], bos)
        torch.testing.assert_close(-found.nats[0], made.logprobs[0][made.placed[0]], rtol=0, atol=1e-10)
        assert bool(found.likeliest.all()) == greedy


class _Tokens(Passages):
    """A text that is given as tokens."""

    def __init__(self, tokens: np.ndarray, known: int) -> None:
        self.eos_id, self._texts = None, [(tokens.tolist(), 1)]
        self._spans, self.shapes = [(0, 0, known, len(tokens))], [(len(tokens), known)]


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_probabilities_of_all_continuations_sum_to_one(streams: int) -> None:
    """Behind any context: what is scored is a distribution."""
    network = tiny_model(vocab_size=3, init_std=0.3)
    total = 0.0
    for text in itertools.product(range(3), repeat=4):
        ((found,),) = score_items(Scorer(network), strided(streams), _Tokens(np.array([2, 1, *text]), 2), [[0]], 0)
        total += math.exp(-float(found.nats.sum()))
    assert total == pytest.approx(1, abs=1e-10)


def test_a_price_is_told_more_closely_than_the_perplexities() -> None:
    """Documents differ in how hard they are far more than in what parallel streams cost them."""
    hard = np.random.default_rng(0).uniform(50, 500, 40)
    first: list[Record] = [([(100, 0, 0, 0.0, [nats], True)], True) for nats in hard]
    other: list[Record] = [([(100, 0, 0, 0.0, [1.02 * nats], True)], True) for nats in hard]
    found, alone = price(other, first), summarize(other, None, None, weighted=False)
    assert found.value == pytest.approx(alone.value / summarize(first, None, None, weighted=False).value, rel=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert alone.low is not None
    assert alone.high is not None
    assert 1 < found.low < found.value < found.high
    assert found.high / found.low < (alone.high / alone.low) ** 0.1


def test_accuracy_counts_whole_answers() -> None:
    answers: list[Record] = [([(2, 3, 2, 1.0, [1.0], right)], True) for right in (True, True, False, True)]
    found = accuracy(answers)
    assert found.value == 0.75
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.75 < found.high


def test_a_text_without_tokens_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(EvaluationError, match="document 1 of 2: has no text"):
        Passages([Document("a"), Document("")], tokenizer, LENGTH, LENGTH)
