"""`armd launch slurm` on a real Slurm."""

from pathlib import Path

import pytest
from cluster_jobs import CPU_JOB, Cluster, losses
from ranks import armd

pytestmark = pytest.mark.slurm


def test_two_nodes_train_what_torchrun_trains(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    job = slurm.launch(config, f"run.dir={tmp_path / 'job'}", "--nodes", "2", *CPU_JOB)
    trained = armd("train", config, f"run.dir={tmp_path / 'torchrun'}", processes=2)
    assert trained.returncode == 0, trained.stderr
    assert slurm.end(job) == "COMPLETED"
    assert slurm.job(job)["NumNodes"] == "2"
    assert losses(tmp_path / "job") == losses(tmp_path / "torchrun")
