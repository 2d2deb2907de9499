"""Four processes that lose numbers and flip bits: what is changed, and what is said, under many layouts."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ranks import TIMEOUT_SECONDS, environment

HERE = Path(__file__).parent
BF16: dict[str, Any] = {"training.precision": "bf16"}
OFFLOAD: dict[str, Any] = {"parallel.offload_optimizer": True}
TENSOR, PIPELINE = {"parallel.tensor": 2}, {"parallel.pipeline": 2}
UP = "two_stream.0.mlp.up.weight"


def zero(stage: int) -> dict[str, Any]:
    return {"parallel.zero_stage": stage}


# Settings, the rank that loses numbers, the samples of which that is told, and bits that are flipped: (rank, weight).
Layout = tuple[dict[str, Any], int, str, list[tuple[int, str]]]
LAYOUTS: dict[str, Layout] = {
    "data_4": ({}, 3, "23 to 23", [(3, UP), (0, "norm.weight")]),
    "bf16_tensor_2_zero_1": (TENSOR | zero(1) | BF16, 2, "21 to 21", [(1, "norm.weight"), (2, UP)]),
    "zero_3": (zero(3), 3, "23 to 23", [(1, "norm.weight")]),
    "bf16_zero_2_offload": (zero(2) | BF16 | OFFLOAD, 3, "23 to 23", []),
    "pipeline_2": (PIPELINE, 1, "20 to 23", [(3, "tokens.weight"), (2, "norm.weight")]),
}
MORE: dict[str, Layout] = {
    "tensor_2": (TENSOR, 1, "17 to 17", [(1, "norm.weight")]),
    "zero_1": (zero(1), 3, "23 to 23", []),
    "zero_2": (zero(2), 3, "23 to 23", []),
    "zero_1_offload": (zero(1) | OFFLOAD, 3, "23 to 23", []),
    "zero_3_offload": (zero(3) | OFFLOAD, 3, "23 to 23", []),
    "bf16_zero_2": (zero(2) | BF16, 3, "23 to 23", []),
    "bf16_zero_3": (zero(3) | BF16, 3, "23 to 23", []),
    "bf16_zero_1_offload": (zero(1) | BF16 | OFFLOAD, 3, "23 to 23", []),
    "bf16_zero_3_offload": (zero(3) | BF16 | OFFLOAD, 3, "23 to 23", []),
    "bf16_pipeline_2_zero_1": (PIPELINE | zero(1) | BF16, 1, "20 to 23", []),
    "pipeline_2_zero_2": (PIPELINE | zero(2), 1, "20 to 23", []),
    "virtual_2_zero_1": (
        PIPELINE | zero(1) | {"parallel.virtual_pipeline": 2, "model.num_layers": 4},
        1,
        "20 to 23",
        [],
    ),
}
Seen = dict[str, list[dict[str, Any]]]


def run_layouts(layouts: dict[str, Layout], out: Path) -> Seen:
    """What each process saw under each layout."""
    what = {name: (settings, rank, flips) for name, (settings, rank, _, flips) in layouts.items()}
    done = subprocess.run(
        [sys.executable, str(HERE / "health_ranks.py"), json.dumps(what), str(out)],
        env={**environment(), "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return {name: [json.loads((out / f"{name}.{rank}").read_text()) for rank in range(4)] for name in layouts}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return run_layouts(LAYOUTS, tmp_path_factory.mktemp("health"))


def check_skipped(seen: list[dict[str, Any]], rank: int, samples: str) -> None:
    """Three updates are skipped by all alike, and named; the steps behind them are those of a run without them."""
    for mine in seen:
        assert (mine["finite"], mine["skipped"]) == ([False] * 4, 3)
        where = rf"rank {rank} \(.+\), samples {samples}"
        assert re.fullmatch(rf"the gradient of {UP} is not finite on {where}", mine["named"]), mine["named"]
        assert mine["once"] == [True, "None"]
        assert mine["differ"] == [], "weights, moments or Adam's count of steps"
        assert mine["steps"] == [4]
        curve, wanted = mine["curve"]
        assert curve == wanted
        assert mine["replicas"] is None


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_lost_numbers_change_nothing_and_are_named(name: str, seen: Seen) -> None:
    check_skipped(seen[name], *LAYOUTS[name][1:3])


@pytest.mark.grid
def test_lost_numbers_change_nothing_under_more_layouts(tmp_path: Path) -> None:
    for name, found in run_layouts(MORE, tmp_path).items():
        check_skipped(found, *MORE[name][1:3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("data_4", [rf"{UP} differ on rank 3 \(.+\) from those on 3 ", r"norm.weight differ on rank 0 \(.+\) from"]),
        (
            "bf16_tensor_2_zero_1",  # a norm that all hold whole; a part that two processes hold
            [
                r"norm.weight differ on rank 1 \(.+\) from those on 3 ",
                rf"{UP} differ between rank 0 .+, rank 2 ",
            ],
        ),
        ("zero_3", [r"norm.weight differ on rank 1 \(.+\) from those on 3 "]),  # one of those that every process keeps
        (
            "pipeline_2",  # a copy of the tied embedding; one stage's own
            [
                r"tokens.weight differ on rank 3 \(.+\) from those",
                r"norm.weight differ between rank 2 .+, rank 3",
            ],
        ),
    ],
)
def test_one_flipped_bit_names_its_process(name: str, said: list[str], seen: Seen) -> None:
    for mine in seen[name]:
        assert len(mine["flips"]) == len(said)
        for found, wanted in zip(mine["flips"], said, strict=True):
            assert re.match(f"the bits of {wanted}", found), found
