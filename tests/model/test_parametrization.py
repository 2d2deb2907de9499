"""What follows from the width: initial weights, learning rates, and the multipliers of queries and logits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import CONTEXTS, rows_of, tiny_config

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser
from armd_dist.model.initialization import initial_value, initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.model.parameter_groups import parameter_groups, set_learning_rate
from armd_dist.model.parametrization import init_multiplier, is_matrix, output_multiplier, rate_multiplier
from armd_dist.orders.schemes import any_order

ALL = {"qk_norm": True, "normalization": "layernorm", "activation": "swiglu", "bias": True, "num_key_value_heads": 2}


def network(kind: type[nn.Module], config: ModelConfig) -> nn.Module:
    model = kind(config, PlainLayers())
    initialize(model, config, seed=0)
    return model


@pytest.mark.parametrize("kind", [ARMD, Denoiser, LearnedOrderDenoiser])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("switches", [{}, ALL])
def test_kinds_of_weights_are_told_by_how_they_grow_with_the_width(
    kind: type[nn.Module], context: Any, switches: dict[str, Any]
) -> None:
    """So that a new weight under a name that nobody foresaw is found here."""
    settings: dict[str, Any] = {"query_context": context, "num_attention_heads": 2, **switches}
    configs = (tiny_config(hidden_size=width, ffn_hidden_size=2 * width, **settings) for width in (16, 64))
    narrow, wide = (dict(kind(each, PlainLayers()).named_parameters()) for each in configs)
    config = tiny_config(hidden_size=64, mup_base_width=16)
    assert narrow.keys() == wide.keys()
    for name, small in narrow.items():
        shape = wide[name].shape
        grown = [to // of for of, to in zip(small.shape, shape, strict=True)]
        to_one = (0.25, 0.25) if name.endswith("score.weight") else (1, 1)
        expected = {(4, 4): (0.5, 0.25), (1, 4): to_one, (4,): (1, 1), (1,): (1, 1)}
        found = init_multiplier(name, len(shape), config), rate_multiplier(name, len(shape), config)
        assert found == expected[tuple(grown)], name


def test_initial_weights_have_the_deviation_of_their_kind() -> None:
    config = tiny_config(hidden_size=128, mup_base_width=32)
    usual = tiny_config(hidden_size=128)
    for name, factor in (
        ("tokens.weight", 1.0),
        ("upper.0.attention.query.weight", 0.5),
        ("upper.0.mlp.down.weight", 0.5),
        ("reverse_order.score.weight", 0.25),
        ("query_context.left.weight", 1.0),
        ("upper.0.mlp_norm.weight", 1.0),
    ):
        shape = (128,) if "norm" in name else (128, 128)
        torch.testing.assert_close(initial_value(name, shape, config, 3), factor * initial_value(name, shape, usual, 3))


def test_at_its_base_width_a_network_of_usual_heads_is_the_standard_one() -> None:
    settings: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2}
    rows = rows_of(any_order(8, np.random.default_rng(0)), batch=2)
    usual, ours = (network(ARMD, tiny_config(**settings, mup_base_width=base)) for base in (None, 128))
    assert torch.equal(usual(rows.layout()), ours(rows.layout()))


def test_scores_are_8_over_the_width_of_a_head_and_logits_fall_with_the_width() -> None:
    """A network that computes the same without the setting: queries and the last norm take up the multipliers."""
    config = tiny_config(hidden_size=64, num_attention_heads=4, mup_base_width=16)
    plain = config.model_copy(update={"mup_base_width": None})
    model, other = network(ARMD, config).double(), ARMD(plain, PlainLayers()).double()
    other.load_state_dict(model.state_dict())
    rows = rows_of(any_order(8, np.random.default_rng(0)), batch=2).layout()
    assert not torch.allclose(model(rows), other(rows), rtol=0.1)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if name.endswith("attention.query.weight"):
                weight *= (8 / 16) / (1 / math.sqrt(16))
        other.get_parameter("norm.weight").mul_(16 / 64)
    assert output_multiplier(config) == 16 / 64
    torch.testing.assert_close(model(rows), other(rows))


def test_groups_have_rates_and_shares_of_decay() -> None:
    config = tiny_config(hidden_size=64, mup_base_width=16)
    named = dict(ARMD(config, PlainLayers()).named_parameters())
    groups = parameter_groups(((name, each, each.dim()) for name, each in named.items()), config, 0.1, {})
    set_learning_rate(groups, 1e-3)
    found = {id(each): (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert len(groups) == 3
    assert len(found) == len(named)
    for name, each in named.items():
        rate, decay = found[id(each)]
        assert rate == pytest.approx(2.5e-4 if is_matrix(name, each.dim()) else 1e-3), name
        assert rate * decay == pytest.approx(1e-4 if each.dim() > 1 else 0), name


def test_without_mup_there_are_matrices_and_vectors() -> None:
    config = tiny_config()
    named = list(ARMD(config, PlainLayers()).named_parameters())
    groups = parameter_groups(((name, each, each.dim()) for name, each in named), config, 0.1, {})
    matrices = [each for _, each in named if each.dim() > 1]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert all(one is other for one, other in zip(groups[0]["params"], matrices, strict=True))
    assert {group["multiplier"] for group in groups} == {1.0}


def test_a_part_of_the_network_may_have_a_rate_of_its_own() -> None:
    config = tiny_config(hidden_size=64, mup_base_width=16, network="denoiser")
    model = LearnedOrderDenoiser(config, PlainLayers())
    named = ((name, each, each.dim()) for name, each in model.named_parameters())
    groups = parameter_groups(named, config, 0.1, {"forward_order.": 0.5, "reverse_order.": 3.0})
    found = {id(each): (group["multiplier"], group["weight_decay"]) for group in groups for each in group["params"]}
    for name, wanted in (
        ("forward_order.score.weight", (0.125, 0.4)),
        ("forward_order.norm.weight", (0.5, 0)),
        ("reverse_order.inner.weight", (0.75, 0.4)),
        ("stack.0.mlp.up.weight", (0.25, 0.4)),
        ("mask.weight", (1.0, 0.1)),
    ):
        assert found[id(model.get_parameter(name))] == pytest.approx(wanted), name
