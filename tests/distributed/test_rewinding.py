"""Back to a checkpoint in a used engine, on two processes: the same steps again, to the last bit; and all go back."""

import json
from pathlib import Path
from typing import Any

import pytest
from grid import BF16, DROPOUT, OFFLOAD, PIPELINE, SEQUENCE, TENSOR, VIRTUAL, zero
from ranks import free_port, metrics, on_ranks

from data_pipeline.audit import audit

HERE = Path(__file__).parent
LAYOUTS: dict[str, dict[str, Any]] = {
    **{f"zero_{stage}": zero(stage) for stage in range(4)},
    **{f"bf16_zero_{stage}": zero(stage) | BF16 for stage in (1, 2, 3)},
    "tensor_2": TENSOR | DROPOUT,
    "pipeline_2": PIPELINE | DROPOUT,
}
MORE: dict[str, dict[str, Any]] = {
    **{f"zero_{stage}_offload": zero(stage) | OFFLOAD for stage in (1, 2, 3)},
    **{f"bf16_zero_{stage}_offload": zero(stage) | OFFLOAD | BF16 for stage in (1, 2, 3)},
    **{f"bf16_tensor_2_zero_{stage}": TENSOR | zero(stage) | BF16 for stage in (1, 2, 3)},
    "zero_3_dropout": zero(3) | DROPOUT,
    "sequence": SEQUENCE | DROPOUT,
    "bf16_pipeline_2_zero_1": PIPELINE | zero(1) | BF16,
    "pipeline_2_zero_2": PIPELINE | zero(2),
    "virtual_2_zero_1": VIRTUAL | zero(1),
}
Seen = dict[str, list[dict[str, Any]]]


def run_layouts(layouts: dict[str, dict[str, Any]], out: Path, words: list[str]) -> Seen:
    """What each process saw under each layout; words: of `armd train` afterwards."""
    on_ranks(HERE / "rewind_ranks.py", json.dumps(layouts), out, json.dumps(words), free_port())
    return {name: [json.loads((out / f"{name}.{rank}").read_text()) for rank in range(2)] for name in layouts}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rewinding")


@pytest.fixture(scope="module")
def seen(folder: Path, tiny_config: Path) -> Seen:
    long = ["training.steps=140", "orders.left_to_right_steps=140", "orders.strided_from=null", "checkpoint.every=20"]
    changes = ["health.rewind=true", "data.ledger=true", "training.ema_decay=0.9", "parallel.timeout_minutes=1", *long]
    return run_layouts(LAYOUTS, folder, [str(tiny_config), f"run.dir={folder / 'run'}", *changes])


def check_steps_again(seen: list[dict[str, Any]]) -> None:
    for mine in seen:
        for back in (mine["once"], mine["twice"]):
            assert back["restored"] == [], "weights, moments, their average or Adam's count of steps"
            assert back["skipped"] == 0
            curve, wanted = back["curve"]
            assert curve == wanted
            assert back["left"] == []
        assert mine["without_average"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_steps_behind_a_checkpoint_are_the_same_again(name: str, seen: Seen) -> None:
    check_steps_again(seen[name])


@pytest.mark.grid
def test_steps_are_the_same_again_under_more_layouts(tmp_path: Path) -> None:
    for found in run_layouts(MORE, tmp_path, []).values():
        check_steps_again(found)


@pytest.mark.slow
def test_all_go_back_where_the_samples_of_one_spike(seen: Seen, folder: Path) -> None:
    run = folder / "run"
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 141))
    assert not any("loss_spike" in line for line in lines)
    assert [lines[step]["consumed_samples"] for step in (119, 120, 139)] == [960, 1096, 1248]
    proof = audit(run, 140)
    assert not proof.problems
    assert proof.left_out == [(960, 1088)]
    assert proof.samples == 140 * 8
