"""`armd launch slurm` on a real Slurm."""

import sys
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
    def start(nodes: int) -> dict[int, float]:
        run_dir = tmp_path / str(nodes)
        job = slurm.launch(config, f"run.dir={run_dir}", "--nodes", "1-2", *CPU_JOB)
        assert slurm.end(job) == "COMPLETED"
        assert slurm.job(job)["NumNodes"] == str(nodes)
        assert len(list(run_dir.glob("launch/*/*_result.pkl"))) == nodes
        return losses(run_dir)

    on_two = start(2)
    slurm.ask("scontrol", "update", f"nodename={NODES[1]}", "state=drain", "reason=test")
    try:
        assert start(1) == pytest.approx(on_two, rel=1e-5)
    finally:
        slurm.ask("scontrol", "update", f"nodename={NODES[1]}", "state=resume")


def test_sixteen_nodes_of_eight_gpus_would_be_taken(slurm: Cluster, tmp_path: Path) -> None:
    armd_7b = Path(__file__).parents[2] / "configs" / "armd_7b.yaml"
    asked = ("--nodes", "16", "--gpus-per-node", "8", "--time", "2-00:00:00", "--partition", "gpus", "--dry-run")
    script = tmp_path / "job.sh"
    script.write_text(slurm.ask(sys.executable, "-m", "armd_dist", "launch", "slurm", armd_7b, *asked))
    slurm.ask("sbatch", "--test-only", script)
    with pytest.raises(AssertionError, match="configuration is not available"):
        slurm.ask("sbatch", "--test-only", "--gpus-per-node=9", script)
