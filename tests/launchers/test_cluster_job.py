"""`armd launch slurm` on a real Slurm."""

import json
from pathlib import Path

import pytest
from cluster_jobs import Cluster
from ranks import armd

pytestmark = pytest.mark.slurm

CPU_JOB = ("--gpus-per-node", "0", "--cpus-per-task", "1", "--time", "0:10:00")


def test_two_nodes_train_what_torchrun_trains(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    job = slurm.launch(config, f"run.dir={tmp_path / 'job'}", "--nodes", "2", *CPU_JOB)
    trained = armd("train", config, f"run.dir={tmp_path / 'torchrun'}", processes=2)
    assert trained.returncode == 0, trained.stderr
    assert slurm.end(job) == "COMPLETED"
    assert slurm.job(job)["NumNodes"] == "2"
    assert _losses(tmp_path / "job") == _losses(tmp_path / "torchrun")


def _losses(run_dir: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}
