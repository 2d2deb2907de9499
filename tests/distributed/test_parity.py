"""The same run on one process and on several, from the command line and on real data: losses and gradient norms agree,
and one resumes the other. Which layouts train the same model is for test_grid.py."""

import shutil
from pathlib import Path

import pytest
from ranks import armd, metrics


def agree(found: Path, wanted: Path, tolerance: float) -> None:
    here, there = metrics(found), metrics(wanted)
    assert [line["step"] for line in here] == [line["step"] for line in there] == list(range(1, 21))
    for mine, reference in zip(here, there, strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=tolerance)
        assert mine["grad_norm"] == pytest.approx(reference["grad_norm"], rel=tolerance)
        assert {mine[key] == reference[key] for key in ("phase", "rho", "consumed_samples", "learning_rate")} == {True}


def test_the_run_passes_through_every_phase_and_learns(trained: Path) -> None:
    lines = metrics(trained)
    assert {line["phase"] for line in lines} == {"left_to_right", "progressive", "strided"}
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert max(line["grad_norm"] for line in lines) > 0.5, "clipping must have something to clip"


def test_tensor_and_data_parallelism_agree_with_one_process(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    overrides = ["parallel.tensor=2", "parallel.zero_stage=1"]
    done = armd("train", tiny_config, f"run.dir={tmp_path / 'run'}", *overrides, processes=4)
    assert done.returncode == 0, done.stderr
    agree(tmp_path / "run", trained, 1e-5)


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        (2, ["parallel.tensor=2"]),
        (2, ["parallel.pipeline=2"]),
        (2, ["parallel.zero_stage=1"]),
        (None, ["training.micro_batch_size=4"]),
    ],
    ids=["on_tensor_2", "on_pipeline_2", "on_data_2_zero_1", "on_one_with_another_micro_batch"],
)
def test_another_layout_continues(
    processes: int | None, overrides: list[str], trained: Path, tiny_config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    for step in (15, 20):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    done = armd("train", tiny_config, f"run.dir={folder}", *overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    assert "step-00000010 (step 10)" in done.stderr
    agree(folder, trained, 1e-5)


def test_zero_1_checkpoint_loads_on_one_process(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = ["train", tiny_config, f"run.dir={folder}"]
    done = armd(*first, "parallel.zero_stage=1", "training.stop_at=10", processes=2)
    assert done.returncode == 0, done.stderr
    done = armd(*first)
    assert done.returncode == 0, done.stderr
    agree(folder, trained, 1e-5)


def test_bf16_follows_fp32(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    overrides = [f"run.dir={tmp_path / 'run'}", "training.precision=bf16", "parallel.zero_stage=1", "parallel.tensor=2"]
    done = armd("train", tiny_config, *overrides, processes=2)
    assert done.returncode == 0, done.stderr
    for mine, reference in zip(metrics(tmp_path / "run"), metrics(trained), strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=0.01)
        assert mine["grad_norm"] == pytest.approx(reference["grad_norm"], rel=0.02)
