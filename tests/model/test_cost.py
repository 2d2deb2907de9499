"""Parameters and FLOPs by formula are those that the networks really have and do."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from toys import BOS, Rows, rows_of, tiny_config

from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.cost import (
    forward_flops,
    num_parameters,
    training_flops_per_token,
)
from armd_dist.model.denoiser import Denoiser, lay_out_masked
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import learned_order_batch
from armd_dist.objectives.likelihood import token_nll
from armd_dist.orders.schemes import left_to_right, strided

LENGTH = 9
ALL: dict[str, Any] = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "qk_norm": True,
    "activation": "swiglu",
    "ffn_hidden_size": None,
    "normalization": "layernorm",
    "tie_embeddings": True,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "default": {},
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 1},
    "qk_norm": {"qk_norm": True},
    "swiglu": {"activation": "swiglu", "ffn_hidden_size": None},
    "layernorm": {"normalization": "layernorm"},
    "bias": {"bias": True},
    "bias_everywhere": {"bias": True, "normalization": "layernorm", "activation": "swiglu", "ffn_hidden_size": None},
    "learned": {"position_embedding": "learned"},
    "rotary": {"position_embedding": "rotary"},
    "tied": {"tie_embeddings": True},
    "dropout": {"hidden_dropout": 0.5},
    "no_layer_of_two_streams": {"two_stream_layers": 0},
    "one": {"two_stream_layers": 1},
    "all_of_two_streams": {"two_stream_layers": 4},
    "no_context": {"query_context": "none"},
    "linear": {"query_context": "linear"},
    "linear_without_streams": {"query_context": "linear", "two_stream_layers": 0},
    "both_contexts": {"query_context": "both"},
    "all": {**ALL, "query_context": "both", "two_stream_layers": 3},
}
COMMON = [name for name, changes in SWITCHES.items() if not {"query_context", "two_stream_layers"} & set(changes)]


def made(network: type[ARMD] | type[Denoiser], config: ModelConfig) -> Any:
    model = network(config, PlainLayers())
    initialize(model, config, seed=0)
    return model


def counted(model: Any, layout: Any, targets: torch.Tensor) -> int:
    """FLOPs of one forward pass. Only the plain products of attention are known to the counter on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        token_nll(model, layout, targets)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", SWITCHES)
def test_parameters_of_the_two_stream_network(name: str) -> None:
    config = tiny_config(**SWITCHES[name])
    assert num_parameters(config, padded=True) == sum(p.numel() for p in ARMD(config, PlainLayers()).parameters())
    trimmed = config.model_copy(update={"pad_vocab_to": 1})
    assert num_parameters(config) == sum(p.numel() for p in ARMD(trimmed, PlainLayers()).parameters())


@pytest.mark.parametrize("order", [left_to_right(LENGTH), strided(LENGTH, 4)], ids=["sorted", "dense_mask"])
@pytest.mark.parametrize("name", SWITCHES)
def test_flops_of_the_two_stream_network(name: str, order: Any) -> None:
    config = tiny_config(**SWITCHES[name])
    rows = rows_of(order, batch=2)
    assert counted(made(ARMD, config), rows.layout(), rows.ids) == 2 * forward_flops(config, LENGTH)


@pytest.mark.parametrize("two_stream", [0, 1, 2, 4])
@pytest.mark.parametrize("context", ["neighbours", "linear", "both", "none"])
def test_training_is_three_times_forward(context: str, two_stream: int) -> None:
    config = tiny_config(query_context=context, two_stream_layers=two_stream)
    model, rows = made(ARMD, config), rows_of(left_to_right(LENGTH))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        rows.loss(model).backward()
    assert counter.get_total_flops() == pytest.approx(LENGTH * training_flops_per_token(config, LENGTH), rel=1e-12)


@pytest.mark.parametrize("block_length", [None, 1, 4, LENGTH])
@pytest.mark.parametrize("name", COMMON)
def test_denoiser(name: str, block_length: int | None) -> None:
    config = tiny_config(network="denoiser", **SWITCHES[name])
    model = made(Denoiser, config)
    assert num_parameters(config, padded=True) == sum(p.numel() for p in model.parameters())
    rows: Rows = rows_of(left_to_right(LENGTH), batch=2)
    masked = torch.arange(LENGTH).expand(2, -1) % 3 == 0
    layout = lay_out_masked(rows.ids, masked, block_length or LENGTH, BOS)
    assert counted(model, layout, rows.ids) == 2 * forward_flops(config, LENGTH, block_length)


@pytest.mark.parametrize("name", COMMON)
def test_learned_order(name: str) -> None:
    """A step is three passes through the backbone, of which one keeps no gradient and has no logits."""
    config = tiny_config(network="denoiser", learned_order=True, **SWITCHES[name])
    model = LearnedOrderDenoiser(config, PlainLayers())
    initialize(model, config, seed=0)
    assert num_parameters(config, padded=True) == sum(p.numel() for p in model.parameters())
    ids = torch.arange(2 * LENGTH).view(2, LENGTH) % 5
    batch = learned_order_batch(ids, 0, [0, 1], BOS)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.read(batch.layout)
    assert counter.get_total_flops() == 2 * forward_flops(config, LENGTH)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        batch.loss(model).objective.backward()
    assert counter.get_total_flops() == pytest.approx(2 * LENGTH * training_flops_per_token(config, LENGTH), rel=1e-12)


def test_share_of_a_second_stream() -> None:
    """A two-stream layer is 1 + 20/24 of a plain one where matrices outweigh attention (stated by the paper)."""
    wide = {"vocab_size": 2, "pad_vocab_to": 1, "hidden_size": 1 << 20, "num_layers": 3, "query_context": "none"}
    plain, double = (forward_flops(ModelConfig(**wide, two_stream_layers=n), 1) for n in (0, 2))
    assert (double - plain) / (plain / 3) == pytest.approx(20 / 24, rel=1e-5)
