"""Samples: each from its own seed, as long as asked, behind held-out prompts; and the held-out text beside them."""

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import tiny_model

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.held_out import held_out_texts, references
from armd_dist.evaluation.journal import Journal, Text
from armd_dist.evaluation.samples import Asked, check_asked, draw, make_sample
from armd_dist.generation.generate import answer
from armd_dist.generation.requests import Ordering, Request, prepare
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

ASKED = Asked(count=5, new_tokens=8, seed=3, batch_size=2, sampling=Sampling(temperature=1.5))


@pytest.fixture(scope="module")
def stream(dataset: Path) -> TokenStream:
    return TokenStream(dataset / "held_out", 8, seed=0)


@pytest.fixture(scope="module")
def tokenizer(dataset: Path) -> Tokenizer:
    return Tokenizer.load(dataset / "held_out" / "tokenizer.model")


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ARMD:
    return tiny_model(vocab_size=tokenizer.vocab_size, num_layers=2)


def prompts(tokens: int) -> np.ndarray:
    return np.arange(30, 30 + 5 * tokens).reshape(5, tokens)


def test_samples_are_what_generate_gives_for_the_same_seeds(model: ARMD, tokenizer: Tokenizer) -> None:
    drawn = draw(model, tokenizer, prompts(0), 2, replace(ASKED, ends=True))
    ordering = Ordering("strided", 2)
    requests = [prepare(Request(("", 8), seed), tokenizer, ordering, 24) for seed in range(3, 8)]
    wanted = answer(model, tokenizer, requests, ASKED.sampling)
    assert [one.tokens for one in drawn.samples] == [one.tokens for one in wanted]
    assert [one.texts[0] for one in drawn.samples] == [one.text for one in wanted]
    assert (drawn.streams, drawn.passes) == (2, max(one.passes for one in wanted))


def test_a_text_depends_on_its_seed_and_prompt_alone(model: ARMD, tokenizer: Tokenizer) -> None:
    one, many = (draw(model, tokenizer, prompts(3), 4, replace(ASKED, batch_size=size)) for size in (1, 5))
    assert one.samples == many.samples
    assert len({tuple(sample.tokens) for sample in one.samples}) == 5
    assert [sample.prompt for sample in one.samples] == [tokenizer.decode(row) for row in prompts(3).tolist()]
    assert {len(sample.tokens) for sample in one.samples} == {8}
    assert one.passes == 4 + 2 - 1
    later = draw(model, tokenizer, prompts(3)[1:], 4, replace(ASKED, seed=4))
    assert later.samples == one.samples[1:]


def test_texts_go_on_behind_an_end_unless_they_shall_not(model: ARMD, tokenizer: Tokenizer) -> None:
    plain = draw(model, tokenizer, prompts(0), 1, ASKED).samples[0].tokens
    ending = copy(tokenizer)
    ending.eos_id = plain[2]
    first = plain.index(ending.eos_id)
    whole, ended = (draw(model, ending, prompts(0), 1, replace(ASKED, ends=ends)) for ends in (False, True))
    assert whole.samples[0].tokens == plain
    assert whole.samples[0].texts[0] == tokenizer.decode(plain[:first])
    assert ended.samples[0].tokens == plain[: first + 1]
    assert ended.passes == max(len(one.tokens) for one in ended.samples)


def test_time_is_told_and_the_warm_up_is_not_counted(
    model: ARMD, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("armd_dist.evaluation.samples.time.perf_counter", lambda: next(clock))
    done: list[int] = []
    drawn = draw(model, tokenizer, prompts(0), 1, ASKED, done.append)
    assert done == [2, 2, 1]
    assert drawn.tokens_per_second == 5 * 8 / 3  # each of three batches took from one tick to the next
    assert next(clock) == 6, "nobody else looked at the clock"


def test_samples_go_on_where_they_were_killed(model: ARMD, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Batches that are there are not written again; those of other streams, weights or prompts do not count."""
    asked, file = replace(ASKED, batch_size=2), tmp_path / "samples.jsonl"
    kept = (Journal[Text](file), {"weights": "a"})
    whole = draw(model, tokenizer, prompts(3), 2, asked)

    def die(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model, tokenizer, prompts(3), 2, asked, die, kept)
    first = file.read_text()
    file.write_text(first + '{"key": "to')
    assert draw(model, tokenizer, prompts(3), 2, asked, None, kept).samples == whole.samples
    assert file.read_text().startswith(first)
    assert file.read_text().count("\n") == 3, "5 texts are 3 batches"
    for others in (
        lambda: draw(model, tokenizer, prompts(3), 4, asked, None, kept),
        lambda: draw(model, tokenizer, prompts(3), 2, asked, None, (kept[0], {"weights": "b"})),
        lambda: draw(model, tokenizer, prompts(2), 2, asked, None, kept),
    ):
        lines = file.read_text().count("\n")
        others()
        assert file.read_text().count("\n") == lines + 3


def test_a_text_is_cut_into_documents(tokenizer: Tokenizer) -> None:
    end, (a, b) = tokenizer.eos_id, tokenizer.encode("xq")[:2]
    one, other = tokenizer.decode([a]), tokenizer.decode([b])
    for tokens, texts in (
        ([a, b], [one + other]),
        ([a, end, b], [one, other]),
        ([a, end, end, b, end], [one, other]),
        ([end, b], ["", other]),
        ([end], [""]),
    ):
        assert make_sample([b], tokens, tokenizer).texts == texts
        assert make_sample([b], tokens, tokenizer).prompt == other


def test_references_end_where_samples_do(tokenizer: Tokenizer) -> None:
    end = tokenizer.eos_id
    rows = np.array([[30, 31, 32, end, 33], [34, 35, 36, 37, 38]])
    asked = Asked(count=2, new_tokens=4, prompt_tokens=1)
    assert [one.tokens for one in references(rows, asked, tokenizer)] == rows[:, 1:].tolist()
    ended = references(rows, replace(asked, ends=True), tokenizer)
    assert [one.tokens for one in ended] == [[31, 32, end], [35, 36, 37, 38]]
    assert ended[0].texts == [tokenizer.decode([31, 32])]


@pytest.mark.parametrize("prompt", [0, 4])
def test_held_out_texts_do_not_overlap(prompt: int, stream: TokenStream, tokenizer: Tokenizer) -> None:
    asked = replace(ASKED, count=6, prompt_tokens=prompt, new_tokens=20)
    texts = held_out_texts(stream, asked)
    everything = stream.tokens(0, stream.manifest.tokens)
    windows = np.lib.stride_tricks.sliding_window_view(everything, prompt + 20)
    starts = [int(np.flatnonzero((windows == text).all(1))[0]) for text in texts]
    assert min(np.diff(starts)) >= prompt + 20
    if not prompt:
        assert starts[-1] > len(everything) / 2, "spread over the dataset"
    for start, sample in zip(starts, references(texts, asked, tokenizer), strict=True):
        if prompt:
            assert start == 0 or everything[start - 1] == tokenizer.eos_id
        assert tokenizer.eos_id not in everything[start : start + prompt]
        assert sample.tokens == everything[start + prompt : start + prompt + 20].tolist()
        assert sample.prompt == tokenizer.decode(everything[start : start + prompt])


def test_prompts_stand_within_documents_that_are_longer(stream: TokenStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents too short for the prompt are passed over, also where reading stops within one."""
    eos = stream.manifest.eos_id
    tokens = np.array([9, 9, eos, 8, 8, 8, 8, eos, 7, eos, 6, 6, 6, 6, 6, eos, 5, 5, 5, eos])
    monkeypatch.setattr(stream, "tokens", lambda start, stop: tokens[start:stop])
    monkeypatch.setattr(stream, "manifest", replace(stream.manifest, tokens=len(tokens)))
    for chunk in (1, 2, 3, 100):
        monkeypatch.setattr("armd_dist.evaluation.held_out.CHUNK", chunk)
        found = held_out_texts(stream, Asked(count=2, new_tokens=1, prompt_tokens=3))
        assert found.tolist() == [[8, 8, 8, 8], [6, 6, 6, 6]]
        first = held_out_texts(stream, Asked(count=1, new_tokens=5, prompt_tokens=2))
        assert first.tolist() == [[8, 8, 8, 8, eos, 7, eos]]
        with pytest.raises(EvaluationError, match=r"--samples 3: .*with its 20 tokens has 2 texts of 2 tokens behind"):
            held_out_texts(stream, Asked(count=3, new_tokens=2, prompt_tokens=3))


def test_texts_close_together_where_spreading_leaves_too_few(
    stream: TokenStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    eos = stream.manifest.eos_id
    tokens = np.array([4, 4, eos, 5, 5, eos, 6, 6, eos, *[7] * 10, eos])
    monkeypatch.setattr(stream, "tokens", lambda start, stop: tokens[start:stop])
    monkeypatch.setattr(stream, "manifest", replace(stream.manifest, tokens=len(tokens)))
    found = held_out_texts(stream, Asked(count=4, new_tokens=1, prompt_tokens=1))
    assert found.tolist() == [[4, 4], [5, 5], [6, 6], [7, 7]]


def test_what_the_model_cannot_write_is_told() -> None:
    check_asked(replace(ASKED, prompt_tokens=16), [1, 8], longest=24)
    for asked, streams, told in (
        (replace(ASKED, prompt_tokens=17), [1], "--new-tokens 8: 17 known tokens and 8 new ones exceed"),
        (ASKED, [1, 9], "--streams 9: 8 new tokens have at most that many streams"),
    ):
        with pytest.raises(EvaluationError) as error:
            check_asked(asked, streams, longest=24)
        assert str(error.value).startswith(told)


def test_too_little_held_out_text_is_told(stream: TokenStream) -> None:
    most = stream.manifest.tokens // 1000
    with pytest.raises(EvaluationError, match=rf"has {most} texts of 1000 tokens; ask for fewer"):
        held_out_texts(stream, replace(ASKED, count=most + 1, new_tokens=1000))
