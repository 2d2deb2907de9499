"""What is said about parallel settings that do not fit together."""

from typing import Any

import pytest

from armd_dist.config_rules import cross_problems
from armd_dist.run import Run

SEQUENCE = {"tensor": 2, "sequence": True}


def told(parallel: dict[str, Any], model: dict[str, Any] | None = None, length: int = 128) -> list[str]:
    """The complaints about a run under these settings."""
    settings = {"vocab_size": 100, "hidden_size": 64, "num_layers": 4, "num_attention_heads": 8}
    run = Run.model_validate(
        {
            "run": {"dir": "runs/x"},
            "model": settings | (model or {}),
            "data": {"path": "data/x", "sequence_length": length},
            "training": {"steps": 4000, "precision": "fp32", "global_batch_size": 32, "micro_batch_size": 4},
            "parallel": parallel,
        }
    )
    return [str(problem) for problem in cross_problems(run)]


@pytest.mark.parametrize(
    "parallel",
    [
        SEQUENCE,
        {**SEQUENCE, "zero_stage": 3, "offload_optimizer": True, "recompute": "full"},
        {"zero_stage": 2},
        {"zero_stage": 1, "offload_optimizer": True},
    ],
)
def test_sound_settings(parallel: dict[str, Any]) -> None:
    assert told(parallel) == []


@pytest.mark.parametrize(
    ("parallel", "model", "length", "wanted"),
    [
        (
            {"sequence": True},
            {},
            128,
            "parallel.sequence=True: splits rows over the processes of parallel.tensor, which is 1; "
            "use parallel.tensor=2 or more",
        ),
        (
            SEQUENCE,
            {},
            127,
            "parallel.sequence=True: splits data.sequence_length=127 rows over parallel.tensor=2 processes evenly; "
            "use a multiple of 2, or another parallel.tensor",
        ),
        (
            SEQUENCE,
            {"query_context": "both"},
            128,
            "parallel.sequence=True: leaves no process all of the rows that model.query_context=both sums over; "
            "use parallel.sequence=false, or model.query_context=neighbours or none",
        ),
        (
            {"offload_optimizer": True},
            {},
            128,
            "parallel.offload_optimizer=True: is what DeepSpeed does for a sharded optimizer, and "
            "parallel.zero_stage=0 shards nothing; use parallel.zero_stage=1, 2 or 3",
        ),
    ],
)
def test_settings_that_contradict_each_other(
    parallel: dict[str, Any], model: dict[str, Any], length: int, wanted: str
) -> None:
    assert told(parallel, model, length) == [wanted]


def test_a_denoiser_keeps_its_rows_together() -> None:
    (said,) = (text for text in told(SEQUENCE, {"network": "denoiser"}) if "sequence" in text)
    assert said == (
        "parallel.sequence=True: cannot split the rows of model.network=denoiser evenly: BOS stands before copies of "
        "the text; use parallel.sequence=false"
    )
