"""Planted bugs: each must make the property that guards against it fail by a wide margin."""

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
    one_pass_against_many,
    past_order_dependence,
    storage_dependence,
)
from torch import Tensor
from toys import CONTEXTS, rows_of, scheme, tiny_model

from armd_dist.generation import decoder
from armd_dist.model import visibility
from armd_dist.model.armd import ARMD
from armd_dist.model.attention import Attention
from armd_dist.model.two_stream import TwoStreamLayer

Patch = pytest.MonkeyPatch
STRIDED = "strided_4_ragged"


def leaks(model: ARMD, name: str) -> tuple[float, float]:
    rows = rows_of(scheme(name), distinct=True)
    return leak(influence_by_gradient(model, rows), rows), leak(influence_by_intervention(model, rows), rows)


@pytest.mark.parametrize("context", CONTEXTS)
def test_strict_mask_that_is_not_strict(context: str, monkeypatch: Patch) -> None:
    model = tiny_model(query_context=context)
    assert max(leaks(model, STRIDED)) < 1e-12
    monkeypatch.setattr(visibility, "earlier", visibility.not_later)
    assert min(leaks(model, STRIDED)) > 1e-4
    assert one_pass_against_many(model, rows_of(scheme(STRIDED))) > 1e-4


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("name", ["left_to_right", "any_order", STRIDED])
def test_query_that_starts_from_its_own_content(name: str, context: str, monkeypatch: Patch) -> None:
    model = tiny_model(query_context=context)
    embed = ARMD.embed

    def leaky(self: ARMD, layout: Any, cache: Any = None) -> tuple[Tensor, Tensor]:
        content, query = embed(self, layout, cache)
        own = torch.cat((content[1:], query[-1:]))  # row i is the content of the token that row i predicts
        return content, own

    monkeypatch.setattr(ARMD, "embed", leaky)
    assert min(leaks(model, name)) > 1e-4
    assert one_pass_against_many(model, rows_of(scheme(name))) > 1e-4


def keys_from_query(monkeypatch: Patch) -> None:
    forward, keys_values = TwoStreamLayer.forward, Attention.keys_values

    def remember(self: TwoStreamLayer, content: Tensor, query: Tensor, *rest: Any) -> Any:
        self.attention.__dict__["instead"] = self.attention_norm(query)
        return forward(self, content, query, *rest)

    def from_query(self: Attention, hidden: Tensor, *rest: Any) -> Any:
        return keys_values(self, self.__dict__.pop("instead", hidden), *rest)

    monkeypatch.setattr(TwoStreamLayer, "forward", remember)
    monkeypatch.setattr(Attention, "keys_values", from_query)


@pytest.mark.parametrize("context", CONTEXTS)
def test_keys_from_the_query_stream(context: str, monkeypatch: Patch) -> None:
    model, rows = tiny_model(query_context=context), rows_of(scheme("any_order"), distinct=True)
    keys_from_query(monkeypatch)
    assert storage_dependence(model, rows) > 1e-4
    if context not in ("linear", "both"):  # whose context alone tells every row of every visible token
        assert blindness(influence_by_gradient(model, rows), rows) > 0
        assert blindness(influence_by_intervention(model, rows), rows) > 0


@pytest.mark.parametrize("context", CONTEXTS)
def test_positions_in_the_order_instead_of_the_text(context: str, monkeypatch: Patch) -> None:
    model = tiny_model(query_context=context, num_layers=1, two_stream_layers=1)
    rows = rows_of(scheme("any_order"))
    assert past_order_dependence(model, rows) < 1e-10
    forward = ARMD.forward

    def misplaced(self: ARMD, layout: Any, caches: Any = None) -> Tensor:
        counted = torch.arange(layout.query_positions.shape[1]).expand_as(layout.query_positions)
        return forward(
            self, dataclasses.replace(layout, content_positions=counted, query_positions=counted + 1), caches
        )

    monkeypatch.setattr(ARMD, "forward", misplaced)
    assert past_order_dependence(model, rows) > 1e-4
    assert storage_dependence(model, rows) > 1e-4


def test_decoder_that_misses_its_nearest_neighbour(monkeypatch: Patch) -> None:
    model, order = tiny_model(), scheme("strided_2")
    assert decode_against_full(model, order, prompt=3) < 1e-10
    lay_columns = decoder.lay_columns

    def forgetful(turns: Tensor) -> Any:
        columns = lay_columns(turns)
        return dataclasses.replace(columns, left=torch.zeros_like(columns.left), left_distance=columns.places)

    monkeypatch.setattr(decoder, "lay_columns", forgetful)
    assert decode_against_full(model, order, prompt=3) > 1e-4
