"""A run that is killed and started again by the same command is the uninterrupted one, to the last digit."""

from pathlib import Path

import pytest
from ranks import armd, kill_when, metrics

from armd_dist.checkpoint.compare import compare_tensors
from armd_dist.checkpoint.folder import complete_checkpoints

TIMES = ("tokens_per_second",)


def curve(folder: Path) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in metrics(folder)]


EVERYTHING = ["parallel.tensor=2", "parallel.sequence=true", "parallel.recompute=full", "model.hidden_dropout=0.1"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["parallel.tensor=2"],
        ["parallel.zero_stage=1"],
        ["parallel.zero_stage=3"],
        pytest.param(EVERYTHING, marks=pytest.mark.grid),
        pytest.param(["parallel.zero_stage=2", "parallel.offload_optimizer=true"], marks=pytest.mark.grid),
    ],
    ids=["tensor_2", "zero_1", "zero_3", "sequence_recompute_dropout", "zero_2_offload"],
)
def test_killed_run_continues_exactly(overrides: list[str], tiny_config: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    overrides = [*overrides, "training.ema_decay=0.6"]
    done = armd("train", tiny_config, f"run.dir={whole}", *overrides, processes=2)
    assert done.returncode == 0, done.stderr
    again = ["train", tiny_config, f"run.dir={broken}", *overrides]
    kill_when(again, broken / "metrics.jsonl", step=11, processes=2)
    assert len(metrics(broken)) < 20
    found = complete_checkpoints(broken)
    done = armd(*again, processes=2)
    assert done.returncode == 0, done.stderr
    # Checkpoint 10 may have been in the making; 5 was there when it began.
    assert found[-1].name in ("step-00000005", "step-00000010")
    assert f"{found[-1].name} (step" in done.stderr
    assert curve(broken) == curve(whole)
    ends = [folder / "checkpoints" / "step-00000020" for folder in (whole, broken)]
    assert compare_tensors(*ends) == [], "weights, Adam's moments and the average"
