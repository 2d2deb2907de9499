"""A packed model says what it said before, and only what helps is packed."""

import pytest
import torch

from armd_dist.generation.decoder import decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import ONEDNN, PlainLayers
from armd_dist.model.packing import pack
from armd_dist.orders.strided import strided_places

BOS, COUNT = 1, 8


def network(dtype: torch.dtype, **settings: object) -> ARMD:
    shape = {"vocab_size": 500, "hidden_size": 512, "num_layers": 2, "num_attention_heads": 8}
    config = ModelConfig.model_validate(shape | {"max_sequence_length": 32} | settings)
    model = ARMD(config, PlainLayers())
    initialize(model, config, seed=0)
    return model.to(dtype).eval().requires_grad_(False)


def written(model: ARMD, streams: int) -> tuple[torch.Tensor, torch.Tensor]:
    turns = [turns_of(strided_places(COUNT, streams))] * 2
    texts = [[known, *[None] * COUNT] for known in (7, 9)]
    made = decode(model, *make_batch(texts, turns, BOS), Sampling(0), BOS, range(2))
    return made.tokens, made.logprobs


@pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
@pytest.mark.parametrize("settings", [{}, {"tie_embeddings": False}, {"bias": True, "activation": "swiglu"}], ids=str)
@pytest.mark.parametrize("streams", [1, 4])
def test_the_same_text(settings: dict[str, object], streams: int) -> None:
    model = network(torch.float32, **settings)
    tokens, logprobs = written(model, streams)
    pack(model)
    packed = [name for name, weight in model.named_parameters() if weight.is_mkldnn]
    assert {name.split(".")[-2] for name in packed} >= {"query", "key_value", "out", "up", "down", "left", "right"}
    assert "tokens.weight" not in packed, "whose rows are looked up"
    assert ("head.weight" in packed) == (not model.config.tie_embeddings)
    assert model.packed_head is not None
    assert model.packed_head.is_mkldnn
    again, of_these = written(model, streams)
    assert torch.equal(tokens, again)
    torch.testing.assert_close(of_these, logprobs, rtol=0, atol=1e-5)


def test_only_fp32_is_packed() -> None:
    """Whose numbers are better left alone: in float64 those that prove exactness, in bf16 those of other kernels."""
    for dtype in (torch.float64, torch.bfloat16):
        model = network(dtype)
        pack(model)
        assert model.packed_head is None
        assert not any(weight.is_mkldnn for weight in model.parameters())
