"""Bounds: above the exact perplexity that they bound, tighter with importance weights, equal when repeated."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from full_pass import window_nll
from scored import any_orders, evaluate
from toys import tiny_config, tiny_model

from armd_dist.evaluation.schemes import SEED, Masked
from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.orders.order import from_permutation
from armd_dist.orders.schemes import any_order
from data_pipeline.stream import TokenStream

LENGTH = 8


@pytest.fixture(scope="module")
def stream(dataset: Path) -> TokenStream:
    return TokenStream(dataset / "held_out", LENGTH, seed=0)


@pytest.fixture(scope="module")
def model(stream: TokenStream) -> ARMD:
    return tiny_model(vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)


@pytest.fixture(scope="module")
def denoiser(stream: TokenStream) -> Denoiser:
    config = tiny_config(network="denoiser", vocab_size=stream.manifest.vocab_size, num_layers=2, init_std=0.1)
    network = Denoiser(config, PlainLayers())
    initialize(network, config, seed=0)
    return network.double().eval()


def test_the_bound_is_the_mean_over_its_orders(model: ARMD, stream: TokenStream) -> None:
    found = evaluate(model, stream, any_orders(3), windows=2, batch_size=4)
    nats = np.zeros((2, 3))
    for window, draw in itertools.product(range(2), range(3)):
        order = any_order(LENGTH, np.random.default_rng((SEED, window * 3 + draw)))
        places, blocks = torch.from_numpy(order.position), torch.from_numpy(order.block)
        tokens = torch.from_numpy(stream.windows(np.array([window])))
        nats[window, draw] = window_nll(model, tokens, places, blocks, stream.manifest.bos_id).sum().item()
    assert found.value == pytest.approx(math.exp(nats.mean() / LENGTH), rel=1e-9)
    tighter = -np.log(np.exp(-nats).mean(axis=1)).mean() / LENGTH
    assert found.importance == pytest.approx(math.exp(tighter), rel=1e-9)
    assert found.importance is not None
    assert found.importance < found.value
    assert (found.tokens, found.draws) == (2 * LENGTH, 3)
    assert (found.documents, found.low, found.high) == (1, None, None), "one document has no interval"


def test_the_bound_of_all_texts_falls_short_of_one_and_the_marginal_does_not() -> None:
    """Over all orders: exp of the mean log p is a bound of the mean p, which is a distribution over texts."""
    model = tiny_model(vocab_size=3)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 3)
    orders = [from_permutation(np.array(reveal)) for reveal in itertools.permutations(range(3))]
    nats = torch.stack(
        [
            window_nll(model, texts, torch.from_numpy(order.position), torch.from_numpy(order.block), 1).sum(1)
            for order in orders
        ]
    )
    assert (-nats).exp().mean(0).sum().item() == pytest.approx(1, abs=1e-10)
    assert (-nats.mean(0)).exp().sum().item() < 1 - 1e-6


def test_bounds_do_not_depend_on_the_batch(model: ARMD, denoiser: Denoiser, stream: TokenStream) -> None:
    for found, again in (
        (evaluate(model, stream, any_orders(2), 5, size) for size in (3, 100)),
        (evaluate(denoiser, stream, Masked("block_diffusion", 4, 2), 5, size) for size in (3, 100)),
    ):
        assert found.value == pytest.approx(again.value, rel=1e-12)


def test_progress_counts_every_draw(model: ARMD, stream: TokenStream) -> None:
    done: list[int] = []
    evaluate(model, stream, any_orders(3), 5, 4, done.append)
    assert sum(done) == 15


def test_windows_of_one_token_leave_nothing_to_chance(denoiser: Denoiser, stream: TokenStream) -> None:
    """Then every masking is the same one, and the bound is an exact perplexity."""
    one, many = (evaluate(denoiser, stream, Masked("block_diffusion", 1, draws), 6) for draws in (1, 5))
    assert one.value == pytest.approx(many.value, rel=1e-12)
    assert one.importance is None
