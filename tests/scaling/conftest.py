"""Small runs, and layers that hold what one of several tensor-parallel processes holds."""

from collections.abc import Callable
from typing import Any

import pytest

from armd_dist.config import check_tree
from armd_dist.run import Run

MODEL = {
    "vocab_size": 500,
    "max_sequence_length": 64,
    "hidden_size": 64,
    "num_layers": 5,
    "num_attention_heads": 4,
    "two_stream_layers": 3,
}
TRAINING = {"steps": 10, "warmup_steps": 0, "global_batch_size": 8, "micro_batch_size": 2, "precision": "bf16"}


def make_run(
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    parallel: dict[str, Any] | None = None,
    orders: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> Run:
    """A run of five layers of width 64 on sequences of 64 tokens, with these changes. bf16 takes ZeRO 1."""
    precision = (training or {}).get("precision", "bf16")
    return check_tree(
        {
            "run": {"dir": "unused"},
            "model": {**MODEL, **(model or {})},
            "data": {"path": "unused", "sequence_length": 64, **(data or {})},
            "orders": orders or {},
            "training": {**TRAINING, **(training or {})},
            "parallel": {"zero_stage": int(precision == "bf16"), **(parallel or {})},
        }
    )


@pytest.fixture(scope="session")
def run_with() -> Callable[..., Run]:
    return make_run
