"""One pass holds every conditional, they make a distribution over texts, and its mean is the loss that theory names."""

import itertools

import numpy as np
import pytest
import torch
from checks import logits_of, one_pass_against_many, past_order_dependence, total_probability
from toys import CONTEXTS, SCHEMES, Rows, rows_of, scheme, tiny_model

from armd_dist.model.armd import ARMD
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.order import Order, from_blocks
from armd_dist.orders.schemes import any_order, left_to_right, masked_diffusion, strided

LENGTH = 8
CASES = [(context, layers) for context in CONTEXTS for layers in (1, 2, 4)] + [("neighbours", 0)]


@pytest.mark.parametrize("steps", [1, 4, 8, LENGTH * 100])
@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_diffusion_in_one_pass_or_many(context: str, two_stream: int, steps: int) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    order = masked_diffusion(LENGTH, steps, np.random.default_rng(steps))
    assert one_pass_against_many(model, rows_of(order, batch=2)) < 1e-10


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_every_scheme_in_one_pass_or_many(context: str, name: str) -> None:
    model = tiny_model(query_context=context, tie_embeddings=True)
    assert one_pass_against_many(model, rows_of(scheme(name), batch=2)) < 1e-10


ORDERS = {
    "left_to_right": left_to_right(4),
    "any_order": any_order(4, np.random.default_rng(1)),
    "strided_2": strided(4, 2),
    "all_at_once": from_blocks(np.ones(4, dtype=np.int64)),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_probabilities_of_all_texts_sum_to_one(context: str, two_stream: int, name: str) -> None:
    model = tiny_model(query_context=context, two_stream_layers=two_stream, vocab_size=3)
    assert total_probability(model, ORDERS[name]) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize(("context", "two_stream"), CASES)
def test_left_to_right_is_the_ar_loss(context: str, two_stream: int) -> None:
    """Next-token cross-entropy by hand: the token behind each prefix, from a pass that holds this prefix alone."""
    model = tiny_model(query_context=context, two_stream_layers=two_stream)
    rows = rows_of(left_to_right(LENGTH), batch=3)
    total = 0.0
    for prefix in range(LENGTH):
        upto = Rows(*(part[:, : prefix + 1] for part in rows))
        unknown = Rows(torch.cat((upto.ids[:, :-1], torch.zeros(3, 1, dtype=torch.int64)), 1), *upto[1:])
        logits = logits_of(model, unknown)[:, -1]
        right = logits.gather(1, rows.ids[:, prefix : prefix + 1])[:, 0]
        total += (logits.exp().sum(1).log() - right).sum().item()
    loss = rows.loss(model).item()
    assert loss == pytest.approx(total / (3 * LENGTH), abs=1e-10)


def test_the_loss_is_the_mean_over_all_tokens() -> None:
    model, rows = tiny_model(), rows_of(strided(9, 2), batch=3)
    nll = token_nll(model, rows.layout(), rows.ids)
    assert nll.shape == (9, 3)
    assert rows.loss(model).item() == pytest.approx(nll.sum().item() / 27, abs=1e-12)


# --- masked diffusion, vocabulary 3, texts of 3 tokens, 3 steps: everything can be enumerated ---


def block_loss(model: ARMD, text: torch.Tensor, steps: int) -> float:
    """The unweighted sum of nats over all tokens, averaged over all steps ** N assignments of masking times."""
    taus = itertools.product(range(1, steps + 1), repeat=len(text))
    losses = []
    for tau in taus:
        order = from_blocks(steps + 1 - np.array(tau))
        losses.append(_nll(model, text, order).sum().item())
    return float(np.mean(losses))


@torch.no_grad()
def _nll(model: ARMD, text: torch.Tensor, order: Order) -> torch.Tensor:
    places, blocks = torch.from_numpy(order.position)[None], torch.from_numpy(order.block)[None]
    rows = Rows(text[places - 1], places, blocks)
    return token_nll(model, rows.layout(), rows.ids)[:, 0]


def diffusion_nelbo(model: ARMD, text: torch.Tensor, steps: int) -> float:
    """The textbook form: a token is masked at time t with probability t / T, whatever the others are.

    NELBO = sum over t of E[z_t] sum over masked n of (alpha_{t-1} - alpha_t) / (1 - alpha_t) times the nats of x_n
    given the visible tokens of z_t, with alpha_t = 1 - t / T.
    """
    total = 0.0
    for t in range(1, steps + 1):
        weight = ((1 - (t - 1) / steps) - (1 - t / steps)) / (t / steps)
        for masked in itertools.product([False, True], repeat=len(text)):
            chance = np.prod([t / steps if hidden else 1 - t / steps for hidden in masked])
            if chance == 0 or not any(masked):
                continue
            order = from_blocks(np.where(masked, 1, 0))  # what is visible, then all that is masked at once
            nll = _nll(model, text, order)[torch.from_numpy(order.block == 1)]
            total += chance * weight * nll.sum().item()
    return float(total)


@pytest.mark.parametrize("context", CONTEXTS)
def test_unweighted_loss_is_the_diffusion_nelbo(context: str) -> None:
    """With one layer a row's conditional depends on the set of visible tokens alone, as in masked diffusion."""
    model = tiny_model(query_context=context, num_layers=1, two_stream_layers=1, vocab_size=3)
    text = torch.tensor([2, 0, 1])
    assert block_loss(model, text, steps=3) == pytest.approx(diffusion_nelbo(model, text, steps=3), abs=1e-10)
    assert past_order_dependence(model, rows_of(any_order(6, np.random.default_rng(0)), vocab=3)) < 1e-10


def chain_nelbo(model: ARMD, text: torch.Tensor, steps: int) -> float:
    """The variational bound of the reverse chain z_T -> ... -> z_0, by its transitions.

    q(z_{t-1} | z_t, x) reveals each masked token with chance 1 / t, and so does the model, which then has to name it
    from what was revealed before: only the names cost nats.
    """

    def bound(t: int, block_of: tuple[int, ...]) -> float:
        masked = [n for n, block in enumerate(block_of) if block == 0]
        if t == 0:
            return 0.0
        total = 0.0
        for shown in itertools.product([False, True], repeat=len(masked)):
            chance = float(np.prod([1 / t if now else 1 - 1 / t for now in shown]))
            if chance == 0:
                continue
            now = [n for n, is_shown in zip(masked, shown, strict=True) if is_shown]
            after = tuple(steps + 1 - t if n in now else block for n, block in enumerate(block_of))
            total += chance * (named(after, steps + 1 - t) + bound(t - 1, after))
        return total

    def named(block_of: tuple[int, ...], block: int) -> float:
        known = np.array([found if found else steps + 1 for found in block_of])
        order = from_blocks(known)
        nll = _nll(model, text, order)
        return nll[torch.from_numpy(order.block == block)].sum().item()

    return bound(steps, (0,) * len(text))


@pytest.mark.parametrize("context", CONTEXTS)
def test_unweighted_loss_is_the_bound_of_the_chain(context: str) -> None:
    """With several layers the conditionals know in which order their past was revealed: the same bound, by paths."""
    model = tiny_model(query_context=context, num_layers=2, two_stream_layers=1, vocab_size=3)
    text = torch.tensor([2, 0, 1])
    assert block_loss(model, text, steps=3) == pytest.approx(chain_nelbo(model, text, steps=3), abs=1e-10)
