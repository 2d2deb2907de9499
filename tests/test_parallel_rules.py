"""What is said about parallel settings that do not fit together."""

from typing import Any

import pytest

from armd_dist.config_rules import cross_problems
from armd_dist.run import Run

SEQUENCE = {"tensor": 2, "sequence": True}


def told(
    parallel: dict[str, Any],
    model: dict[str, Any] | None = None,
    length: int = 128,
    processes: int | None = None,
    **training: Any,
) -> list[str]:
    """The complaints about a run under these settings."""
    settings = {"vocab_size": 100, "hidden_size": 64, "num_layers": 4, "num_attention_heads": 8}
    run = Run.model_validate(
        {
            "run": {"dir": "runs/x"},
            "model": settings | (model or {}),
            "data": {"path": "data/x", "sequence_length": length},
            "training": {"steps": 4000, "precision": "fp32", "global_batch_size": 32, "micro_batch_size": 4} | training,
            "parallel": parallel,
        }
    )
    return [str(problem) for problem in cross_problems(run, processes)]


@pytest.mark.parametrize(
    "parallel",
    [
        SEQUENCE,
        {**SEQUENCE, "zero_stage": 3, "offload_optimizer": True, "recompute": "full"},
        {"zero_stage": 2},
        {"zero_stage": 1, "offload_optimizer": True},
        {"pipeline": 2, "recompute": ["selective", "none"]},
        {"pipeline": 2, "virtual_pipeline": 2, "zero_stage": 2, **SEQUENCE},
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
        (
            {"pipeline": 2, "zero_stage": 3},
            {},
            128,
            "parallel.zero_stage=3: takes weights away between uses, and DeepSpeed's gradient norm over pipeline "
            "stages is then wrong; use 1 or 2, or parallel.pipeline=1",
        ),
        (
            {"virtual_pipeline": 2},
            {},
            128,
            "parallel.virtual_pipeline=2: divides the stages of a pipeline, and parallel.pipeline=1 is none; "
            "use parallel.virtual_pipeline=1, or parallel.pipeline=2 or more",
        ),
        (
            {"pipeline": 4, "virtual_pipeline": 2},
            {},
            128,
            "parallel.pipeline=4: x virtual_pipeline=2 makes 8 stages of 4 layers; "
            "use at most model.num_layers=4 stages",
        ),
        (
            {"pipeline": 2, "recompute": ["full", "none", "none"]},
            {},
            128,
            "parallel.recompute=['full', 'none', 'none']: has 3 entries for parallel.pipeline=2 ranks; "
            "give 2, or one word for all of them",
        ),
    ],
)
def test_settings_that_contradict_each_other(
    parallel: dict[str, Any], model: dict[str, Any], length: int, wanted: str
) -> None:
    assert told(parallel, model, length) == [wanted]


@pytest.mark.parametrize(
    ("parallel", "wanted"),
    [
        ({"zero_stage": 1, "recompute": "full"}, []),
        (
            {"zero_stage": 3},
            [
                "training.compile=True: would compile layers whose weights ZeRO 3 fetches module by module; "
                "use false, or parallel.zero_stage=1 or 2"
            ],
        ),
        (
            {"pipeline": 2, "recompute": ["selective", "none"]},
            [
                "training.compile=True: chooses itself which cheap results of a layer are computed again; "
                "use parallel.recompute=none or full"
            ],
        ),
    ],
)
def test_what_is_compiled(parallel: dict[str, Any], wanted: list[str]) -> None:
    assert told(parallel, compile=True) == wanted


def test_a_denoiser_keeps_its_rows_together() -> None:
    (said,) = (text for text in told(SEQUENCE, {"network": "denoiser"}) if "sequence" in text)
    assert said == (
        "parallel.sequence=True: cannot split the rows of model.network=denoiser evenly: BOS stands before copies of "
        "the text; use parallel.sequence=false"
    )


@pytest.mark.parametrize(
    ("parallel", "processes", "wanted"),
    [
        (
            {"tensor": 2, "pipeline": 2},
            6,
            "parallel.tensor=2: x pipeline=2 does not divide the 6 processes of this job; "
            "start a multiple of 4 processes",
        ),
        (
            {"pipeline": 4},
            12,
            "training.global_batch_size=32: is not a multiple of micro_batch_size x data parallel = 12; "
            "use a multiple of 12, or a smaller micro-batch",
        ),
        (
            {"pipeline": 2, "virtual_pipeline": 2},
            16,
            "training.global_batch_size=32: makes 1 micro-batches, and virtual stages take them in groups of "
            "parallel.pipeline; use a multiple of 64, or parallel.virtual_pipeline=1",
        ),
    ],
)
def test_a_pipeline_fits_the_processes_and_the_batch(parallel: dict[str, Any], processes: int, wanted: str) -> None:
    assert told(parallel, processes=processes) == [wanted]
