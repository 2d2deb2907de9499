"""A real study on this machine, killed twice."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ranks import environment
from studies import study_file

from armd_dist.scaling.grid import PlannedRun, plan_study
from armd_dist.scaling.standing import evaluation_of, run_dir
from armd_dist.scaling.study import load_study

pytestmark = pytest.mark.grid
PATIENCE_S = 400.0


def steps(one: PlannedRun) -> int:
    file = run_dir(one) / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def start(file: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "armd_dist", "scaling", "run", str(file)], env=environment())


def perplexities(planned: list[PlannedRun]) -> list[Any]:
    files = [evaluation_of(one) / "evaluation.json" for one in planned]
    return [{name: each["value"] for name, each in json.loads(f.read_text())["perplexity"].items()} for f in files]


def test_it_comes_to_what_one_in_one_go_comes_to(dataset: Path, tmp_path: Path) -> None:
    def made(name: str) -> tuple[Path, list[PlannedRun]]:
        (tmp_path / name).mkdir()
        changes: dict[str, Any] = {
            "base": {"data": {"path": str(dataset / "train")}, "checkpoint": {"every": 20}},
            "objectives": ["armd", "mdm"],
            "depths": [2],
            "budgets": {"tokens": [51200]},
            "evaluation": {"data": str(dataset / "held_out"), "streams": [1, 2], "windows": 8},
            "workers": 2,
        }
        file = study_file(tmp_path / name, **changes)
        return file, plan_study(load_study(file))

    file, killed = made("killed")
    for moment in (30, 250):
        process, deadline = start(file), time.monotonic() + PATIENCE_S
        while steps(killed[0]) < moment and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
    assert start(file).wait(PATIENCE_S) == 0
    logs = (tmp_path / "killed" / "study" / "logs").glob("*.log")
    assert sum(log.read_text().count("continuing from") for log in logs) >= 2
    before = [(evaluation_of(one) / "evaluation.json").stat().st_mtime_ns for one in killed]
    assert start(file).wait(PATIENCE_S) == 0
    assert [(evaluation_of(one) / "evaluation.json").stat().st_mtime_ns for one in killed] == before
    file, whole = made("whole")
    assert start(file).wait(PATIENCE_S) == 0
    for ours, theirs in zip(perplexities(killed), perplexities(whole), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
