"""`armd launch slurm --at-checkpoints` on a real Slurm."""

import json
import sys
from pathlib import Path

import pytest
from cluster_jobs import CPU_JOB, Cluster

from armd_dist.heartbeat import Heartbeat
from launchers.reached import last_step
from launchers.record import after, newest

pytestmark = pytest.mark.slurm


def test_evaluations_over_training_with_a_requeue_in_between(
    slurm: Cluster, config: Path, dataset: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = f"eval {{checkpoint}} --data {dataset} --windows 2 --out {{run}}/eval/{{step}}"
    saves = ("training.steps=300", "checkpoint.every=20", "checkpoint.keep=1", "checkpoint.keep_every=100")
    job = slurm.launch(config, *saves, *CPU_JOB, "--nodes", "2", "--every", "100", "--at-checkpoints", command)
    slurm.until(f"job {job} has passed the first", lambda: last_step(run) >= 140)
    slurm.ask("scontrol", "requeue", job)
    assert slurm.end(job) == "COMPLETED"
    assert slurm.job(job)["Restarts"] == "1"
    records = after(run, newest(run))
    assert [record.step for record in records] == [100, 200, 300]
    last_word = Heartbeat.read(run)
    assert last_word is not None
    assert records[0].submitted < last_word.time  # beside training, not behind it
    assert [slurm.end(record.id) for record in records] == ["COMPLETED"] * 3
    names = slurm.ask("squeue", "-h", "-t", "all", "-o", "%j").split()
    assert sorted(name for name in names if name.startswith("armd-run-eval-")) == [
        f"armd-run-eval-{step}" for step in (100, 200, 300)
    ]
    found = {step: json.loads((run / "eval" / str(step) / "evaluation.json").read_text()) for step in (100, 200, 300)}
    assert len({json.dumps(each) for each in found.values()}) == 3
    assert not list((run / "checkpoints").glob("*/evaluation.json"))
    shown = slurm.ask(sys.executable, "-m", "armd_dist", "launch", "status", run)
    assert shown.count("finished") == 2  # training, and the newest of the three


def test_each_run_of_a_sweep_has_its_own(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    command = "checkpoint verify {checkpoint}"
    asked = (config, *CPU_JOB, "checkpoint.every=1", "checkpoint.keep_every=1", "--sweep", "training.seed=0,1")
    started = (sys.executable, "-m", "armd_dist", "launch", "slurm", *asked)
    slurm.ask(*started, "--every", "2", "--at-checkpoints", command)
    for run in (tmp_path / "run" / "seed-0", tmp_path / "run" / "seed-1"):
        training = newest(run)
        assert slurm.end(training.id) == "COMPLETED"
        (record,) = after(run, training)
        assert (record.step, slurm.end(record.id)) == (2, "COMPLETED")
        assert f"{run}/checkpoints/step-00000002" in record.log(0, "out").read_text()
