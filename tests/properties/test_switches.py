"""Every switch of the network alone, and all together, keep what the network promises."""

import dataclasses
from typing import Any

import pytest
import torch
from checks import (
    blindness,
    decode_against_full,
    influence_by_gradient,
    influence_by_intervention,
    leak,
    logits_of,
    one_pass_against_many,
    storage_dependence,
)
from toys import rows_of, scheme, tiny_model

from armd_dist.generation.cache import make_caches
from armd_dist.model.armd import ARMD

SWITCHES: dict[str, dict[str, Any]] = {
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
    "one_head_of_keys": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "qk_norm": {"qk_norm": True},
    "swiglu": {"activation": "swiglu"},
    "layernorm": {"normalization": "layernorm"},
    "biases": {"normalization": "layernorm", "bias": True},
    "query_at_the_previous_place": {"query_place": "previous"},
    "learned": {"position_embedding": "learned"},
    "rotary": {"position_embedding": "rotary"},
    "rotary_without_context": {"position_embedding": "rotary", "query_context": "none"},
    "both_contexts": {"query_context": "both"},
    "one_two_stream_layer": {"two_stream_layers": 1},
    "two_streams_throughout": {"two_stream_layers": 4},
}
TOGETHER: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_norm": True,
    "activation": "swiglu",
    "normalization": "layernorm",
    "bias": True,
    "query_place": "previous",
    "hidden_dropout": 0.5,
    "two_stream_layers": 3,
}
COMBINED: dict[str, dict[str, Any]] = {
    "all_learned": {**TOGETHER, "position_embedding": "learned", "query_context": "both"},
    "all_rotary": {**TOGETHER, "position_embedding": "rotary"},
    "all_both": {**TOGETHER, "query_context": "both"},
}
CASES = {**SWITCHES, **COMBINED}
ORDERS = ["left_to_right", "any_order", "strided_4_ragged", "masked_diffusion", "prompt_then_strided"]


def model_of(name: str, **changes: Any) -> ARMD:
    """In eval mode, as whatever loads a model to use it."""
    return tiny_model(**{**CASES[name], **changes}).eval()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_nothing_leaks_and_nothing_is_hidden(name: str, order: str) -> None:
    model, rows = model_of(name), rows_of(scheme(order), distinct=True)
    for influence in (influence_by_gradient(model, rows), influence_by_intervention(model, rows)):
        assert leak(influence, rows) < 1e-12
        assert blindness(influence, rows) == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_one_pass_or_many(name: str, order: str) -> None:
    assert one_pass_against_many(model_of(name), rows_of(scheme(order), batch=2)) < 1e-10


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", CASES)
def test_storage_does_not_matter(name: str, order: str) -> None:
    assert storage_dependence(model_of(name), rows_of(scheme(order), batch=2)) < 1e-10


@pytest.mark.parametrize("prompt", [0, 3])
@pytest.mark.parametrize("order", ["left_to_right", "any_order", "strided_4_ragged", "masked_diffusion"])
@pytest.mark.parametrize("name", CASES)
def test_cached_decode_equals_the_full_pass(name: str, order: str, prompt: int) -> None:
    assert decode_against_full(model_of(name), scheme(order), prompt) < 1e-10


@pytest.mark.parametrize("name", ["rotary", "rotary_without_context", "all_rotary"])
def test_rotation_alone_tells_places_apart(name: str) -> None:
    """The same tokens at other places of the text, revealed in the same sequence, give other logits."""
    model, rows = model_of(name), rows_of(scheme("any_order"))
    assert model.positions.get_parameter("weight").shape[0] == 1
    mirrored = rows._replace(positions=rows.positions.max() + 1 - rows.positions)
    assert (logits_of(model, rows) - logits_of(model, mirrored)).abs().max() > 1e-3


def test_rotation_alone_knows_distances_only() -> None:
    """Without learned positions and neighbours, a text moved along as a whole, BOS too, is the same text."""
    model, rows = model_of("rotary_without_context"), rows_of(scheme("any_order"))
    layout = rows.layout()
    away = {name: getattr(layout, name) + 5 for name in ("content_positions", "query_positions")}
    torch.testing.assert_close(model(dataclasses.replace(layout, **away)), model(layout), rtol=0, atol=1e-10)


def test_caches_hold_one_head_for_each_group() -> None:
    model, rows = model_of("one_head_of_keys"), rows_of(scheme("left_to_right"), batch=2)
    caches = make_caches(model.config, capacity=12)
    model(rows.layout(), caches)
    assert {cache.keys.shape for cache in caches[:-1]} == {(2, 1, 12, 4)}
    assert {cache.values.shape for cache in caches[:-1]} == {(2, 1, 12, 4)}
