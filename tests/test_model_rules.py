"""What is said about settings of the network that do not fit together."""

from typing import Any

import pytest

from armd_dist.config_rules import cross_problems
from armd_dist.run import Run


def told(tensor: int = 1, **model: Any) -> list[str]:
    """The complaints about a run of eight heads of width 8 under these settings."""
    settings = {"vocab_size": 100, "hidden_size": 64, "num_layers": 4, "num_attention_heads": 8, **model}
    run = Run.model_validate(
        {
            "run": {"dir": "runs/x"},
            "model": settings,
            "data": {"path": "data/x", "sequence_length": 128},
            "training": {"steps": 4000, "precision": "fp32", "global_batch_size": 32, "micro_batch_size": 4},
            "parallel": {"tensor": tensor},
        }
    )
    return [str(problem) for problem in cross_problems(run)]


LINEAR = (
    "weighs tokens by learned positions, which model.position_embedding=rotary does not have; "
    "use model.position_embedding=both or learned, or model.query_context=neighbours"
)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"num_key_value_heads": 2}, []),
        ({"num_key_value_heads": 2, "tensor": 2}, []),
        (
            {"num_key_value_heads": 3},
            ["model.num_key_value_heads=3: does not divide model.num_attention_heads=8; use 1, 2, 4 or 8"],
        ),
        (
            {"num_key_value_heads": 16},
            ["model.num_key_value_heads=16: does not divide model.num_attention_heads=8; use 1, 2, 4 or 8"],
        ),
        (
            {"num_key_value_heads": 2, "tensor": 4},
            ["parallel.tensor=4: does not divide model.num_key_value_heads=2; use 1 or 2"],
        ),
        ({"query_context": "linear", "position_embedding": "rotary"}, [f"model.query_context=linear: {LINEAR}"]),
        ({"query_context": "both", "position_embedding": "rotary"}, [f"model.query_context=both: {LINEAR}"]),
        ({"query_context": "linear", "position_embedding": "learned"}, []),
        ({"query_context": "neighbours", "position_embedding": "rotary"}, []),
        ({"num_attention_heads": 64, "position_embedding": "learned"}, []),
        ({"query_place": "previous", "query_context": "none"}, []),
        (
            {"query_place": "previous", "network": "denoiser"},
            [
                "model.query_place=previous: moves the query stream, and model.network=denoiser has none; "
                "use model.query_place=own"
            ],
        ),
    ],
)
def test_settings_of_the_network(settings: dict[str, Any], wanted: list[str]) -> None:
    assert told(**settings) == wanted


@pytest.mark.parametrize("position", ["rotary", "both"])
def test_heads_of_odd_width_cannot_rotate(position: str) -> None:
    (problem,) = told(num_attention_heads=64, position_embedding=position)
    assert "which rotary positions cannot pair" in problem


@pytest.mark.parametrize(
    ("hidden", "activation", "width"),
    [
        (768, "gelu", 3072),
        (768, "swiglu", 2048),
        (1024, "swiglu", 2752),  # 2730.7, up to a multiple of 64
        (16, "swiglu", 64),  # 42.7 -> 64, which is 4 x hidden_size and no more
        (8, "swiglu", 24),  # 64 would be more than 4 x 8: 21.3, up to a multiple of 8
        (6, "swiglu", 16),  # exactly 8/3 of it
    ],
)
def test_width_of_the_mlp_by_default(hidden: int, activation: str, width: int) -> None:
    settings = {"vocab_size": 9, "hidden_size": hidden, "num_attention_heads": 1, "activation": activation}
    run = Run.model_validate({"run": {"dir": "x"}, "model": settings, "data": {"path": "x"}, "training": {"steps": 9}})
    assert run.model.ffn_hidden_size == width
    assert run.model.num_key_value_heads == 1
