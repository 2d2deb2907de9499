"""Initial weights are a function of (seed, name) and nothing else."""

import math

import pytest
import torch
from toys import BOS, CONTEXTS, rows_of, tiny_config

from armd_dist.model.armd import ARMD
from armd_dist.model.initialization import initial_value, initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.orders.schemes import left_to_right


@pytest.mark.parametrize("context", CONTEXTS)
def test_order_of_parameters_does_not_matter(context: str) -> None:
    config = tiny_config(query_context=context)
    model = ARMD(config, PlainLayers())
    initialize(model, config, seed=3)
    for name, parameter in reversed(list(model.named_parameters())):
        assert torch.equal(parameter, initial_value(name, tuple(parameter.shape), config, seed=3)), name


def test_parameters_that_two_models_share_start_equal() -> None:
    weights = []
    for context in CONTEXTS:
        config = tiny_config(query_context=context, two_stream_layers=3)
        model = ARMD(config, PlainLayers())
        initialize(model, config, seed=3)
        weights.append(dict(model.named_parameters()))
    shared = set.intersection(*(set(named) for named in weights))
    assert len(shared) > 20
    for name in shared:
        for others in weights[1:]:
            assert torch.equal(weights[0][name], others[name]), name


def test_seeds_and_names_tell_matrices_apart() -> None:
    config = tiny_config()
    values = [initial_value(name, (16, 16), config, seed) for name in ("a.weight", "b.weight") for seed in (0, 1)]
    for index, one in enumerate(values):
        assert not any(torch.equal(one, other) for other in values[:index])


def test_left_to_right_the_query_starts_as_an_ar_input() -> None:
    """G0 = place + previous token, and nothing else."""
    config = tiny_config()
    model = ARMD(config, PlainLayers())
    initialize(model, config, seed=0)
    rows = rows_of(left_to_right(6), batch=2)
    _, query = model.embed(rows.layout())
    previous = torch.cat((torch.full((2, 1), BOS), rows.ids[:, :-1]), dim=1)
    expected = model.positions(rows.positions) + model.tokens(previous)
    torch.testing.assert_close(query.transpose(0, 1), expected)


def test_identity_maps_and_norms() -> None:
    config = tiny_config()
    for side in ("left", "right", "neighbours.left", "neighbours.right"):
        assert torch.equal(initial_value(f"query_context.{side}.weight", (16, 16), config, 0), torch.eye(16))
    assert torch.equal(initial_value("norm.weight", (16,), config, 0), torch.ones(16))


def test_the_switches_bring_no_other_identities_and_ones() -> None:
    """With all of them on: two maps are the identity, norms of streams and heads are one, the rest is drawn."""
    config = tiny_config(query_context="both", qk_norm=True, normalization="layernorm", activation="swiglu")
    model = ARMD(config, PlainLayers())
    initialize(model, config, seed=0)
    named = dict(model.named_parameters())
    ones = {name for name, value in named.items() if torch.equal(value, torch.ones_like(value))}
    assert ones == {name for name in named if name.endswith("norm.weight")}
    assert len(ones) == 4 * 4 + 1
    eyes = {name for name, value in named.items() if value.dim() == 2 and torch.equal(value, torch.eye(*value.shape))}
    assert eyes == {f"query_context.neighbours.{side}.weight" for side in ("left", "right")}


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("two_stream.0.attention.query.weight", 1.0),
        ("query_context.mix.weight", 1.0),
        ("tokens.weight", 1.0),
        ("two_stream.0.attention.out.weight", 1 / math.sqrt(8)),
        ("upper.1.mlp.down.weight", 1 / math.sqrt(8)),
    ],
)
def test_spread(name: str, scale: float) -> None:
    value = initial_value(name, (200, 200), tiny_config(), 0)
    assert value.dtype == torch.float32
    assert value.std().item() == pytest.approx(0.3 * scale, rel=0.02)
    assert abs(value.mean().item()) < 0.01
