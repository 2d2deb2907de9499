"""`armd launch slurm` on a real Slurm."""

from pathlib import Path

import pytest
from cluster import NODES
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


def test_of_one_or_two_nodes_it_takes_what_is_there(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    found = {}
    for nodes in (1, 2):
        run_dir = tmp_path / str(nodes)
        slurm.ask(
            "scontrol", "update", f"nodename={NODES[1]}", "state=drain" if nodes == 1 else "state=resume", "reason=test"
        )
        job = slurm.launch(config, f"run.dir={run_dir}", "--nodes", "1-2", *CPU_JOB)
        assert slurm.end(job) == "COMPLETED"
        assert slurm.job(job)["NumNodes"] == str(nodes)
        assert len(list(run_dir.glob("launch/*/*_result.pkl"))) == nodes
        found[nodes] = losses(run_dir)
    assert found[1] == pytest.approx(found[2], rel=1e-5)
