"""Pretrained networks as ARMD's: settings and weights under which it computes, left to right, what they compute.

Row n of ARMD predicts the token at its own place n, from the token before it; row n - 1 of an AR model does that. So
with query_place=previous, the neighbour maps at the identity and their distances at zero, the query of token n starts
as the AR model's row n - 1, with BOS as the first token. Above the two-stream layers that is the AR model. In
a two-stream layer the content row of place m is the AR model's row m itself, and the query of n sees the content before
n, which is what row n - 1 sees: so it is the AR model for any number of two-stream layers (docs/export.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from armd_dist.errors import Problem
from armd_dist.export.incoming.folder import Incoming
from armd_dist.export.weights import exported_shapes
from armd_dist.model.config import ModelConfig
from armd_dist.model.initialization import initial_value
from data_pipeline.tokenizer import Tokenizer

Weights = dict[str, Tensor]
AR = {"two_stream_layers": 0, "query_context": "neighbours", "query_place": "previous"}
USUAL_LENGTH = 4096  # of models made for more: the neighbours' distances have a vector for each place
NO_WEIGHTS = ("attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")  # buffers that old folders have


@dataclass(frozen=True)
class Family:
    """read: settings of the network, of the tokenizer's size and a length; weigh: its weights, without padding."""

    read: Callable[[Incoming, int | None], tuple[ModelConfig, Tokenizer]]
    weigh: Callable[[Incoming, ModelConfig], Weights]


def _model(**settings: Any) -> ModelConfig:
    return ModelConfig.model_validate({**settings, **AR})


def read_gpt2(given: Incoming, asked: int | None) -> tuple[ModelConfig, Tokenizer]:
    settings = given.settings
    given.expect("activation_function", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
    given.expect("scale_attn_weights", True, True)
    given.expect("scale_attn_by_inverse_layer_idx", False, False)
    given.expect("add_cross_attention", False, False)
    length = given.length(asked, settings["n_positions"], settings["n_positions"])
    given.settle()
    tokenizer = given.tokenizer(settings["vocab_size"])
    config = _model(
        vocab_size=tokenizer.vocab_size,
        max_sequence_length=length,
        hidden_size=settings["n_embd"],
        num_layers=settings["n_layer"],
        num_attention_heads=settings["n_head"],
        ffn_hidden_size=settings.get("n_inner"),
        normalization="layernorm",
        bias=True,
        position_embedding="learned",
        tie_embeddings=settings.get("tie_word_embeddings", True),
        norm_eps=settings["layer_norm_epsilon"],
    )
    return config, tokenizer


def weigh_gpt2(given: Incoming, config: ModelConfig) -> Weights:
    given.drop_prefix("transformer.")
    hidden, wide, places = config.hidden_size, config.ffn_hidden_size, given.settings["n_positions"]
    assert wide is not None, "ModelConfig fills it"
    weights = _ends(given, config, "wte.weight", "ln_f")
    table = given.take("wpe.weight", places, hidden)
    # Nothing was trained at the place behind the last one, where only a content row stands.
    weights["positions.weight"] = torch.cat((table, table[-1:]))[: config.num_positions]
    for layer in range(config.num_layers):
        there, here = f"h.{layer}", f"upper.{layer}"
        for norm, name in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            weights |= _norm(given, f"{there}.{norm}", f"{here}.{name}", config)
        joint = given.take(f"{there}.attn.c_attn.weight", hidden, 3 * hidden).t()  # as Conv1D: [in, out]
        parts = joint.split(hidden), given.take(f"{there}.attn.c_attn.bias", 3 * hidden).split(hidden)
        for kind, (query, key, value) in zip(("weight", "bias"), parts, strict=True):
            weights[f"{here}.attention.query.{kind}"] = query
            weights[f"{here}.attention.key_value.{kind}"] = _side_by_side(key, value, config.head_dim)
        for name, ours, sizes in (
            ("attn.c_proj", "attention.out", (hidden, hidden)),
            ("mlp.c_fc", "mlp.up", (hidden, wide)),
            ("mlp.c_proj", "mlp.down", (wide, hidden)),
        ):
            weights[f"{here}.{ours}.weight"] = given.take(f"{there}.{name}.weight", *sizes).t()
            weights[f"{here}.{ours}.bias"] = given.take(f"{there}.{name}.bias", sizes[1])
    return weights


def read_llama(given: Incoming, asked: int | None) -> tuple[ModelConfig, Tokenizer]:
    settings = given.settings
    rotation = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    given.settings = settings = settings | {"rope_type": rotation.get("rope_type", rotation.get("type", "default"))}
    width = settings["hidden_size"] // settings["num_attention_heads"]
    given.expect("hidden_act", "silu", "silu")
    given.expect("attention_bias", False, False)
    given.expect("mlp_bias", False, False)
    given.expect("rope_type", "default", "default")
    given.expect("head_dim", None, None, width)
    length = given.length(asked, settings["max_position_embeddings"], USUAL_LENGTH)
    given.settle()
    tokenizer = given.tokenizer(settings["vocab_size"])
    config = _model(
        vocab_size=tokenizer.vocab_size,
        max_sequence_length=length,
        hidden_size=settings["hidden_size"],
        num_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        num_key_value_heads=settings.get("num_key_value_heads"),
        ffn_hidden_size=settings["intermediate_size"],
        activation="swiglu",
        position_embedding="rotary",
        tie_embeddings=settings.get("tie_word_embeddings", False),
        rope_theta=rotation.get("rope_theta", settings.get("rope_theta", 10_000.0)),
        norm_eps=settings["rms_norm_eps"],
    )
    return config, tokenizer


def weigh_llama(given: Incoming, config: ModelConfig) -> Weights:
    given.drop_prefix("model.")
    hidden, wide, heads = config.hidden_size, config.ffn_hidden_size, config.num_key_value_heads
    assert wide is not None, "ModelConfig fills it"
    assert heads is not None, "ModelConfig fills it"
    weights = _ends(given, config, "embed_tokens.weight", "norm")
    weights["positions.weight"] = torch.zeros(1, hidden)  # the vector that rows have in place of a learned position
    for layer in range(config.num_layers):
        there, here = f"layers.{layer}", f"upper.{layer}"
        for norm, name in (("input_layernorm", "attention_norm"), ("post_attention_layernorm", "mlp_norm")):
            weights |= _norm(given, f"{there}.{norm}", f"{here}.{name}", config)
        keys = heads * config.head_dim
        key, value = (given.take(f"{there}.self_attn.{name}_proj.weight", keys, hidden) for name in "kv")
        up, gate = (given.take(f"{there}.mlp.{name}_proj.weight", wide, hidden) for name in ("up", "gate"))
        weights |= {
            f"{here}.attention.query.weight": given.take(f"{there}.self_attn.q_proj.weight", hidden, hidden),
            f"{here}.attention.key_value.weight": _side_by_side(key, value, config.head_dim),
            f"{here}.attention.out.weight": given.take(f"{there}.self_attn.o_proj.weight", hidden, hidden),
            f"{here}.mlp.up.weight": _side_by_side(up, gate, 1),
            f"{here}.mlp.down.weight": given.take(f"{there}.mlp.down_proj.weight", hidden, wide),
        }
    return weights


def read_armd(given: Incoming, asked: int | None) -> tuple[ModelConfig, Tokenizer]:
    """An export of ours."""
    known = {name: given.settings[name] for name in ModelConfig.model_fields if name in given.settings}
    config = ModelConfig(**(known | {"pad_vocab_to": ModelConfig.model_fields["pad_vocab_to"].default}))
    if asked not in (None, longest := config.max_sequence_length):
        given.problems.append(Problem("--max-sequence-length", asked, f"is not the export's {longest}", "leave it out"))
    given.settle()
    return config, Tokenizer.load(given.folder / "tokenizer.model")


def weigh_armd(given: Incoming, config: ModelConfig) -> Weights:
    given.drop_prefix("armd.")
    return {name: given.take(name, *shape) for name, shape in exported_shapes(config).items()}


def _ends(given: Incoming, config: ModelConfig, tokens: str, norm: str) -> Weights:
    """What is below and above the layers, and the neighbour maps as they start in any run."""
    rows, hidden = given.settings["vocab_size"], config.hidden_size
    tables = {"tokens.weight": tokens} | ({} if config.tie_embeddings else {"head.weight": "lm_head.weight"})
    # Rows behind the tokenizer's last token stand for nothing.
    weights = {ours: given.take(name, rows, hidden)[: config.vocab_size] for ours, name in tables.items()}
    if config.tie_embeddings and given.has("lm_head.weight"):
        given.take("lm_head.weight", rows, hidden)  # the same once more
    for name, shape in exported_shapes(config).items():
        if name.startswith("query_context."):
            weights[name] = initial_value(name, shape, config, seed=0)
    return weights | _norm(given, norm, "norm", config)


def _norm(given: Incoming, there: str, here: str, config: ModelConfig) -> Weights:
    kinds = ("weight", "bias") if config.bias else ("weight",)
    return {f"{here}.{kind}": given.take(f"{there}.{kind}", config.hidden_size) for kind in kinds}


def _side_by_side(first: Tensor, second: Tensor, rows: int) -> Tensor:
    """`rows` rows of the first, as many of the second, and so on: heads of keys and values, or values and gates."""
    return torch.stack((first.unflatten(0, (-1, rows)), second.unflatten(0, (-1, rows))), dim=1).flatten(0, 2)


FAMILIES = {
    "gpt2": Family(read_gpt2, weigh_gpt2),
    "llama": Family(read_llama, weigh_llama),
    "armd": Family(read_armd, weigh_armd),
}
