"""What the network computes, and what it leaves out."""

import math
from typing import Any

import pytest
import torch
from toys import CONTEXTS, VOCAB, rows_of, scheme, tiny_config, tiny_model

from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers


@pytest.mark.parametrize("name", ["any_order", "strided_4_ragged"])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("two_stream", [1, 2, 4])
def test_content_behind_the_last_two_stream_layer_is_dropped(two_stream: int, context: str, name: str) -> None:
    """There the MLP sees query rows alone, and computing the content's too would change no logit."""
    model, rows = tiny_model(query_context=context, two_stream_layers=two_stream), rows_of(scheme(name), batch=2)
    seen: list[int] = []
    for layer in [*model.two_stream.values(), *model.upper.values()]:
        layer.mlp.up.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[0] * inputs[0].shape[1]))
    before = model(rows.layout())
    count = rows.ids.numel()
    assert seen == [2 * count] * (two_stream - 1) + [count] * (4 - two_stream + 1)
    assert [layer.drops_content for layer in model.two_stream.values()] == [False] * (two_stream - 1) + [True]
    model.two_stream[str(two_stream - 1)].drops_content = False
    torch.testing.assert_close(model(rows.layout()), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        *({"query_context": context} for context in ("neighbours", "linear", "both", "none")),
        {"qk_norm": True, "activation": "swiglu", "normalization": "layernorm", "num_key_value_heads": 1},
        {"position_embedding": "rotary"},
        {"position_embedding": "learned", "tie_embeddings": True},
    ],
    ids=str,
)
def test_every_parameter_is_trained(settings: dict[str, Any]) -> None:
    """Blocks of one token and more: no weight of any layer is idle."""
    model = tiny_model(**settings)
    rows = rows_of(scheme("strided_4_ragged"), batch=4)
    rows.loss(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_padding_of_the_vocabulary_is_impossible_and_untouched() -> None:
    model, rows = tiny_model(), rows_of(scheme("any_order"))
    logits = model(rows.layout())
    assert logits.shape[-1] == 48
    assert (logits[..., VOCAB:] == -math.inf).all()
    rows.loss(model).backward()
    assert torch.isfinite(model.head.weight.grad).all()
    assert (model.head.weight.grad[VOCAB:] == 0).all()


def test_tied_head() -> None:
    model = tiny_model(tie_embeddings=True)
    assert not hasattr(model, "head")
    rows = rows_of(scheme("any_order"))
    query = torch.randn(3, 1, 16, dtype=torch.float64)
    expected = model.norm(query) @ model.tokens.weight.T
    torch.testing.assert_close(model.predict(query)[..., :VOCAB], expected[..., :VOCAB])
    assert torch.isfinite(rows.loss(model))


@pytest.mark.parametrize("two_stream", [0, 2, 4])
def test_size_does_not_depend_on_how_many_layers_carry_two_streams(two_stream: int) -> None:
    """Both streams share one set of weights."""
    sizes = [
        sum(p.numel() for p in ARMD(tiny_config(two_stream_layers=n), PlainLayers()).parameters())
        for n in (1, two_stream)
    ]
    assert sizes[0] == sizes[1]


def test_derived_defaults_are_written() -> None:
    config = tiny_config(ffn_hidden_size=None, two_stream_layers=None)
    assert (config.ffn_hidden_size, config.two_stream_layers, config.head_dim) == (64, 2, 8)
    assert config.padded_vocab_size == 48
