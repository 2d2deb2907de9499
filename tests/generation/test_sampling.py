"""Greedy, top-k, top-p and seeds."""

import pytest
import torch

from armd_dist.generation.sampling import Sampling, draw_uniforms, sample

PROBABILITIES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)


def drawn(sampling: Sampling, seed: int = 0, rows: int = 4000) -> torch.Tensor:
    return sample(PROBABILITIES.log().expand(rows, 1, -1), sampling, uniforms(rows, 1, seed))[0][:, 0]


def uniforms(rows: int, batch: int, seed: int = 0) -> torch.Tensor:
    return draw_uniforms([seed], [rows * batch])[0].view(rows, batch)


def test_greedy() -> None:
    assert drawn(Sampling(temperature=0), rows=10).tolist() == [0] * 10


def test_frequencies() -> None:
    counts = drawn(Sampling()).bincount(minlength=5) / 4000
    torch.testing.assert_close(counts.double(), PROBABILITIES, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(top_k=1), 1),
        (Sampling(top_k=3), 3),
        (Sampling(top_k=9), 5),
        (Sampling(top_p=5e-324), 1),
        (Sampling(top_p=0.01), 1),
        (Sampling(top_p=0.5), 2),
        (Sampling(top_p=0.72), 3),
        (Sampling(top_p=1.0), 5),
        (Sampling(top_k=3, top_p=0.5), 2),
        (Sampling(top_k=2, top_p=0.9), 2),
        (Sampling(temperature=0.01), 1),
        (Sampling(min_p=0.0), 5),
        (Sampling(min_p=0.3), 3),
        (Sampling(min_p=0.7), 2),
        (Sampling(min_p=1.0), 1),
        (Sampling(top_p=0.5, min_p=0.3), 2),
        (Sampling(top_k=4, min_p=0.3), 3),
    ],
)
def test_cut_tail(sampling: Sampling, kept: int) -> None:
    """top_p keeps the smallest set of likeliest tokens whose probability reaches p; what is kept keeps its ratios."""
    counts = drawn(sampling).bincount(minlength=5)
    assert (counts > 0).tolist() == [index < kept for index in range(5)]
    if sampling.temperature == 1:
        expected = PROBABILITIES[:kept] / PROBABILITIES[:kept].sum()
        torch.testing.assert_close(counts[:kept].double() / 4000, expected, rtol=0, atol=0.03)


def test_tail_is_cut_where_the_likeliest_token_is_not_the_first() -> None:
    logits = PROBABILITIES[[3, 0, 4, 1, 2]].log().expand(500, 2, -1)
    for sampling in (Sampling(top_k=2), Sampling(top_p=0.5)):
        tokens, _ = sample(logits, sampling, uniforms(500, 2))
        assert set(tokens.flatten().tolist()) == {1, 3}


def test_temperature_flattens() -> None:
    hot = drawn(Sampling(temperature=2.0)).bincount(minlength=5).double() / 4000
    torch.testing.assert_close(hot, (PROBABILITIES.log() / 2).softmax(-1), rtol=0, atol=0.03)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0), Sampling(0.5, top_k=2), Sampling(top_p=0.3)])
def test_log_probabilities_are_the_models_own(sampling: Sampling) -> None:
    logits = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens, logprobs = sample(logits, sampling, uniforms(6, 3))
    assert tokens.shape == logprobs.shape == (6, 3)
    torch.testing.assert_close(logprobs, logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0])


def test_rows_are_drawn_apart() -> None:
    tokens = drawn(Sampling(), rows=2000)
    both_first = ((tokens[::2] == 0) & (tokens[1::2] == 0)).double().mean()
    assert both_first.item() == pytest.approx(0.16, abs=0.04)


def test_seeds() -> None:
    assert torch.equal(drawn(Sampling(), seed=1, rows=50), drawn(Sampling(), seed=1, rows=50))
    assert not torch.equal(drawn(Sampling(), seed=1, rows=50), drawn(Sampling(), seed=2, rows=50))


def test_first_numbers_of_a_seed_do_not_depend_on_how_many_are_drawn() -> None:
    short, other, long = draw_uniforms([7, 8, 7], [5, 5, 300])
    assert torch.equal(short, long[:5])
    assert not torch.equal(short, other)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_no_number_takes_a_token_without_probability(number: float) -> None:
    logits = torch.tensor([[[float("-inf"), 0.3, -0.2, 1.1, float("-inf")]]], dtype=torch.float64)
    tokens, _ = sample(logits, Sampling(), torch.full((1, 1), number, dtype=torch.float64))
    assert tokens.item() == (1 if number == 0 else 3)


def test_penalty_of_seen_tokens() -> None:
    """Positive logits are divided, negative ones multiplied, and the reported log-probability is the model's own."""
    logits = torch.tensor([2.0, 1.5, -0.5, -1.0], dtype=torch.float64).expand(4000, 1, -1)
    seen = torch.tensor([[True, False, True, False]])
    tokens, logprobs = sample(logits, Sampling(repetition_penalty=2.0), uniforms(4000, 1), seen)
    counts = tokens[:, 0].bincount(minlength=4).double() / 4000
    torch.testing.assert_close(
        counts, torch.tensor([1.0, 1.5, -1.0, -1.0], dtype=torch.float64).softmax(-1), rtol=0, atol=0.03
    )
    torch.testing.assert_close(logprobs[..., None], logits.log_softmax(-1).gather(-1, tokens[..., None]))
    assert sample(logits[:1], Sampling(0, repetition_penalty=2.0), uniforms(1, 1), seen)[0].item() == 1
    assert sample(logits[:1], Sampling(0), uniforms(1, 1), seen)[0].item() == 0


def test_half_precision_logits() -> None:
    logits = torch.tensor([[[0.0, 9.0, float("-inf")]]], dtype=torch.bfloat16)
    tokens, logprobs = sample(logits, Sampling(0), uniforms(1, 1))
    assert tokens.item() == 1
    assert logprobs.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0: use a number from 0 (greedy) up"),
        ({"temperature": float("inf")}, "temperature=inf: use a number from 0 (greedy) up"),
        ({"temperature": float("nan")}, "temperature=nan: use a number from 0 (greedy) up"),
        ({"top_k": 0}, "top_k=0: use at least 1"),
        ({"top_p": 0.0}, "top_p=0.0: use a number above 0 and up to 1"),
        ({"top_p": 1.5}, "top_p=1.5: use a number above 0 and up to 1"),
        ({"min_p": -0.1}, "min_p=-0.1: use a number from 0 to 1"),
        ({"min_p": float("nan")}, "min_p=nan: use a number from 0 to 1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0: use a number above 0; 1 changes nothing"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf: use a number above 0; 1 changes nothing"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        Sampling(**settings)  # type: ignore[arg-type]
    assert str(error.value) == message
