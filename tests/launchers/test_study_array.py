"""`armd scaling run --cluster`: a study as one array on Slurm."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_jobs import Cluster
from omegaconf import OmegaConf

from armd_dist.errors import ConfigError
from armd_dist.scaling.grid import PlannedRun, plan_study
from armd_dist.scaling.standing import run_dir, standing_of
from armd_dist.scaling.study import Study, load_study
from launchers.study import cluster_of, states_in_queue, submit_study

ARMD = (sys.executable, "-m", "armd_dist")


@pytest.fixture
def study(tree: dict[str, Any], tmp_path: Path) -> Path:
    """The YAML of 12 runs of the tiny base, and of a cluster for them, cpu.yaml."""
    base = {**tree, "run": {"dir": "unused"}}
    base["training"] = {**tree["training"], "steps": 10}
    OmegaConf.save(OmegaConf.create(base), tmp_path / "base.yaml")
    OmegaConf.save(OmegaConf.create({"gpus_per_node": 0, "cpus_per_task": 1, "time": "0:20:00"}), tmp_path / "cpu.yaml")
    settings = {
        "dir": str(tmp_path / "study"),
        "base": str(tmp_path / "base.yaml"),
        "depths": [1, 2, 3],
        "ladder": {"width_per_layer": 8, "head_width": 8},
        "budgets": {"tokens": [640, 1280]},
        "objectives": ["ar", "mdm"],
        "hardware": {"gpu": None, "flops_per_second": 1e9},
        "evaluation": {"data": tree["data"]["path"], "streams": [1], "windows": 4},
    }
    OmegaConf.save(OmegaConf.create(settings), tmp_path / "study.yaml")
    return tmp_path / "study.yaml"


def opened(file: Path) -> tuple[Study, list[PlannedRun]]:
    made = load_study(file)
    return made, plan_study(made)


def test_a_cluster_must_have_what_is_planned(study: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands()
    made, _ = opened(study)
    OmegaConf.save(OmegaConf.create({"gpus_per_node": 2}), tmp_path / "two.yaml")
    with pytest.raises(ConfigError) as caught:
        cluster_of(made, str(tmp_path / "two.yaml"))
    found = str(caught.value)
    assert "hardware.count=1: is what each run is planned for, and the cluster's job has 2 processes" in found
    assert "hardware.gpu=None: is planned, and gpus_per_node=2 of the cluster file is not that" in found
    assert cluster_of(made, str(tmp_path / "cpu.yaml")).world_size == 1


@pytest.mark.slurm
def test_twelve_runs_two_at_a_time_and_one_that_fails(slurm: Cluster, study: Path, tmp_path: Path) -> None:
    made, planned = opened(study)
    assert len(planned) == 12
    bad = planned[4]
    run_dir(bad).mkdir(parents=True)
    (run_dir(bad) / "checkpoints").write_text("no folder")  # no checkpoint can be written
    command = (*ARMD, "scaling", "run", study, "--cluster", tmp_path / "cpu.yaml", "--limit", 2)
    said = slurm.ask(*command)
    assert "12 of 12 runs submitted" in said
    (array,) = set(re.findall(r"^  (\d+)_\d+  logs", said, re.MULTILINE))
    assert "0 of 12 runs submitted" in slurm.ask(*command)
    most = 0

    def ended() -> bool:
        nonlocal most
        states = slurm.ask("squeue", "-h", "-r", "-t", "all", "-j", array, "-o", "%T").split()
        most = max(most, states.count("RUNNING"))
        return not slurm.ask("squeue", "-h", "-r").strip()

    slurm.until("all jobs have ended", ended)
    assert most == 2
    assert {one.name: standing_of(made, one).state for one in planned if one is not bad} == {
        one.name: "complete" for one in planned if one is not bad
    }
    shown = slurm.ask(*ARMD, "scaling", "status", study)
    (line,) = [line for line in shown.splitlines() if line.strip().startswith(bad.name)]
    assert "failed" in line
    restarts = next(iter(run_dir(bad).parent.glob("launch/*/*_4_restarts.jsonl"))).read_text()
    assert restarts.count('"started"') == 2  # it was tried again
    (run_dir(bad) / "checkpoints").unlink()
    assert "1 of 12 runs submitted" in slurm.ask(*command, "--wait")
    assert standing_of(made, bad).state == "complete"


def test_nothing_is_submitted_twice(
    study: Path, tmp_path: Path, commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, planned = opened(study)
    monkeypatch.setattr("launchers.study.standing_of", lambda study, one: type("S", (), {"state": "complete"}))
    assert states_in_queue(planned) == {}
    assert submit_study(made, planned, cluster_of(made, str(tmp_path / "cpu.yaml")), 2, again=True) == []
