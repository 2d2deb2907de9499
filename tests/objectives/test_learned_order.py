"""LoMDM on a real network: what its heads see, its special case, its gradient, and that it trains and generates."""

import itertools
import math

import pytest
import torch
from denoiser_toys import mean_loss, tiny_denoiser
from order_toys import all_maskings, likelihood, nelbo_by_states, noise_for, order_bound
from torch import Tensor
from toys import BOS, tiny_config

from armd_dist.model.denoiser import DenoiserLayout, lay_out_masked
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import (
    exponents,
    lay_out_known,
    learned_order_batch,
    learned_order_loss,
    reader,
)
from armd_dist.objectives.masked_diffusion import masked_batch
from armd_dist.objectives.order_draws import at_state, at_time
from armd_dist.objectives.reverse_process import generate_in_jumps
from armd_dist.objectives.schedulers import Scheduler, polynomial

TEXT = torch.tensor([2, 0, 1])


def tiny_learner(**changes: object) -> LearnedOrderDenoiser:
    config = tiny_config(**{"network": "denoiser", "learned_order": True, "num_layers": 2, "vocab_size": 3, **changes})
    model = LearnedOrderDenoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.double()


def known(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids, dtype=torch.bool)


def forward_of(model: LearnedOrderDenoiser, text: Tensor) -> Scheduler:
    return polynomial(exponents(model.order_of_text(lay_out_known(text[None], BOS)), model.config))


def texts(count: int) -> DenoiserLayout:
    return lay_out_known(TEXT.repeat(count, 1), BOS)


def noise_of(hidden: Tensor) -> Tensor:
    """Noise that hides exactly these."""
    return torch.where(hidden, 0.0, 1 - 2.0**-53).double()


@torch.no_grad()
def test_both_heads_see_every_known_token_and_no_hidden_one() -> None:
    model, ids = tiny_learner(vocab_size=30), torch.tensor([[5, 9, 2, 7, 11]])
    hidden = torch.tensor([[True, False, False, True, False]])

    def scores(ids: Tensor) -> Tensor:
        of_text = model.order_of_text(lay_out_known(ids, BOS))
        return torch.cat((of_text, model.read(lay_out_masked(ids, hidden, 5, BOS))[1]))

    before = scores(ids)
    for place in range(5):
        changed = ids.clone()
        changed[0, place] += 3
        moved = (scores(changed) - before).abs()
        assert moved[0].min() > 1e-9
        assert moved[1].max() == 0 if hidden[0, place] else moved[1].min() > 1e-9


def test_the_heads_gradient_stops_at_the_denoiser() -> None:
    model, ids = tiny_learner(), TEXT[None]
    scores = (
        model.order_of_text(lay_out_known(ids, BOS)),
        model.read(lay_out_masked(ids, ~known(ids), 3, BOS))[1],
    )
    sum(score.square().sum() for score in scores).backward()  # type: ignore[union-attr]
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    heads = {name for name, _ in model.named_parameters() if name.startswith(("forward_order.", "reverse_order."))}
    assert moved == heads


def test_the_backbone_starts_as_the_denoiser() -> None:
    plain, learner = tiny_denoiser(vocab_size=3), tiny_learner()
    own = dict(learner.named_parameters())
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, own[name])


def test_without_learning_it_is_mdlm() -> None:
    """State by state its weighted loss, and no cost of the order; at a time the hidden tokens' nats / t."""
    model, ids = tiny_learner(order_centre=1, order_spread=0), TEXT.repeat(6, 1)
    noise = torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.tensor([0.1, 0.3, 0.4, 0.6, 0.7, 0.99], dtype=torch.float64)
    for draw in (at_state, at_time):
        loss = learned_order_loss(model, lay_out_known(ids, BOS), share, (noise, noise), draw=draw)
        hidden = draw(torch.ones_like(noise), share, noise).hidden
        batch = masked_batch(ids, hidden, 3, BOS)
        assert batch.weights is not None
        nll = model.layers.token_nll(model(batch.layout), ids).t()
        weights = batch.weights if draw is at_state else hidden / share[:, None]
        torch.testing.assert_close(loss.terms.cross_entropy, (nll * weights).sum(1), rtol=1e-6, atol=0)
        assert loss.terms.order.abs().max() < 1e-12
    bound = nelbo_by_states(reader(model, BOS), forward_of(model, TEXT), TEXT)
    assert bound.item() == pytest.approx(mean_loss(model, TEXT, 3), abs=1e-9)


def test_the_expected_gradient_is_that_of_the_mean_loss() -> None:
    """Over all pairs of maskings at one time, for the backbone and both heads."""
    model, t = tiny_learner(), 0.45
    first, second = (index.flatten() for index in torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij"))
    maskings, times = all_maskings(3), torch.full((64,), t, dtype=torch.float64)
    pairs = noise_of(maskings[first]), noise_of(maskings[second])
    loss = learned_order_loss(model, texts(64), times, pairs, draw=at_time)
    chance = forward_of(model, TEXT).log_probability(maskings, times[:8]).exp()
    found = gradients(model, (chance[first] * chance[second]).detach() @ loss.objective)
    forward = forward_of(model, TEXT)
    chance = forward.log_probability(maskings, times[:8]).exp()
    same = noise_of(maskings)
    terms = learned_order_loss(model, texts(8), times[:8], (same, same), draw=at_time).terms
    wanted = gradients(model, chance @ terms.total)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-10)
    assert max(gradient.abs().max() for name, gradient in wanted.items() if "forward_order" in name) > 1e-6


def gradients(model: LearnedOrderDenoiser, value: Tensor) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in model.named_parameters()}
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


def test_the_terms_are_on_average_the_nelbo() -> None:
    """Over all orders and numbers of hidden positions, against the sum over states of what the reader says."""
    model = tiny_learner()
    forward, orders, mean = forward_of(model, TEXT), list(itertools.permutations(range(3))), 0.0
    noise = torch.stack([noise_for(order, forward.exponents[0].detach()) for order in orders])
    drawn = at_state(forward.exponents.expand(6, -1), torch.zeros(6, dtype=torch.float64), noise)
    chance = drawn.log_probability.exp()  # of the whole order: the last has no choice
    for count in (1, 2, 3):
        share = torch.full((6,), (count - 0.5) / 3, dtype=torch.float64)
        terms = learned_order_loss(model, texts(6), share, (noise, noise)).terms
        assert terms.order.max() > 1e-6
        mean += (chance @ terms.total).item() / 3
    wanted = nelbo_by_states(reader(model, BOS), forward, TEXT).item()
    assert mean == pytest.approx(wanted, abs=1e-9)


def test_heads_know_the_places_of_their_rows() -> None:
    model, layout = tiny_learner(position_embedding="rotary"), lay_out_known(TEXT[None], BOS)
    features = model.features(layout)
    turned, still = model.order_of_text(layout), model.forward_order(features, None)
    assert (turned - still).abs().max() > 1e-6


def test_training_lowers_the_bound_and_the_text_is_generated() -> None:
    """One text, learned by heart: its exact bound falls, stays above -log p, and the jump chain writes it."""
    model = tiny_learner()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = order_bound(reader(model, BOS), forward_of(model, TEXT), TEXT)
    for step in range(60):
        batch = learned_order_batch(TEXT.repeat(8, 1), 0, range(8 * step, 8 * step + 8), BOS)
        optimizer.zero_grad()
        batch.loss(model).objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    read = reader(model, BOS)
    with torch.no_grad():
        after = order_bound(read, forward_of(model, TEXT), TEXT)
        assert after < before / 4
        assert -math.log(likelihood(read, TEXT)) < after < nelbo_by_states(read, forward_of(model, TEXT), TEXT) + 1e-9
    empty = torch.zeros(100, 3, dtype=torch.long)
    written = generate_in_jumps(read, empty, ~known(empty), torch.Generator().manual_seed(0))
    share = (written == TEXT).all(1).double().mean().item()
    assert share == pytest.approx(likelihood(read, TEXT), abs=0.15)
