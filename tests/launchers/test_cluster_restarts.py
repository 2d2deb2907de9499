"""Jobs that are interrupted, on a real Slurm: each goes on by itself and ends with the uninterrupted run's losses."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cluster import NODES
from cluster_jobs import CPU_JOB, Cluster, checkout_in, losses
from omegaconf import OmegaConf
from ranks import armd

from launchers.reached import last_step, newest_step

pytestmark = pytest.mark.slurm

STEPS = 300
# Interrupted when it is somewhere after this one.
SOON = 40
NEVER = "checkpoint.every=100000"
ROOT = Path(__file__).parents[2]
SLOW = """
_rate = learning_rate


def learning_rate(*arguments):
    import time

    time.sleep(0.35)
    return _rate(*arguments)
"""


@pytest.fixture(scope="module")
def long_config(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.yaml"
    tree = {**tree, "training": {**tree["training"], "steps": STEPS, "warmup_steps": 10}}
    OmegaConf.save(OmegaConf.create(tree), path)
    return path


@pytest.fixture(scope="module")
def uninterrupted(long_config: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of the run when nothing happens to it."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    done = armd("train", long_config, f"run.dir={folder}", NEVER, processes=2)
    assert done.returncode == 0, done.stderr
    return losses(folder)


class Interrupted:
    """A job of two nodes, something that happens to it while it trains, and what became of it."""

    def __init__(self, slurm: Cluster, config: Path, run_dir: Path) -> None:
        self.slurm, self.config, self.run_dir = slurm, config, run_dir

    def by(self, happen: Callable[[str], object], *arguments: str, checkout: Path = ROOT) -> list[dict[str, Any]]:
        """What the job notes of its starts and ends, once it has trained to its end."""
        flags = (*CPU_JOB, "--nodes", "2", *arguments)
        job = self.slurm.launch(self.config, f"run.dir={self.run_dir}", *flags, cwd=checkout, PYTHONPATH=str(checkout))
        self.slurm.until(f"job {job} trains", lambda: last_step(self.run_dir) >= SOON)
        happen(job)
        assert self.slurm.end(job) == "COMPLETED"
        (journal,) = self.run_dir.glob(f"launch/*/{job}_restarts.jsonl")
        notes = [json.loads(line) for line in journal.read_text().splitlines()]
        print(*notes, sep="\n")
        return notes


@pytest.fixture
def interrupted(slurm: Cluster, long_config: Path, tmp_path: Path) -> Interrupted:
    return Interrupted(slurm, long_config, tmp_path / "run")


def kinds(notes: list[dict[str, Any]]) -> list[str]:
    return [note["kind"] for note in notes]


def repeated(notes: list[dict[str, Any]]) -> int:
    return sum(note["repeated"] for note in notes if note["kind"] == "started")


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_a_signal(name: str, interrupted: Interrupted, uninterrupted: dict[int, float]) -> None:
    notes = interrupted.by(lambda job: interrupted.slurm.ask("scancel", f"--signal={name}", job), NEVER)
    assert kinds(notes) == ["started", "stopped", "started"]
    assert notes[2]["step"] == notes[1]["step"] >= SOON
    assert repeated(notes) == 0
    assert losses(interrupted.run_dir) == uninterrupted


def test_a_time_limit_as_often_as_it_comes(
    interrupted: Interrupted, uninterrupted: dict[int, float], tmp_path: Path
) -> None:
    checkout = checkout_in(tmp_path)
    with open(checkout / "armd_dist" / "training" / "schedule.py", "a") as module:
        module.write(SLOW)  # more than a minute for 200 steps, however fast the machine
    # Slurm looks every half minute: the job is told 1 to 31 seconds before its minute is over.
    limit = ("--partition", "brief", "--time", "0:01:00", "--signal-seconds", "1")
    notes = interrupted.by(lambda _: None, NEVER, "training.stop_at=200", *limit, checkout=checkout)
    assert kinds(notes) == ["started", *["stopped", "started"] * kinds(notes).count("stopped")]
    assert any(note["step"] for note in notes if note["kind"] == "stopped")
    assert repeated(notes) == 0
    assert losses(interrupted.run_dir) == {step: uninterrupted[step] for step in range(1, 201)}


def test_a_signal_before_the_first_step(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    job = slurm.launch(config, *CPU_JOB, "--nodes", "2")
    slurm.until(f"job {job} starts", lambda: list(tmp_path.glob(f"run/launch/*/{job}_restarts.jsonl")))
    slurm.ask("scancel", "--signal=USR2", job)
    assert slurm.end(job) == "COMPLETED"
    (journal,) = tmp_path.glob(f"run/launch/*/{job}_restarts.jsonl")
    assert kinds([json.loads(line) for line in journal.read_text().splitlines()]) == ["started", "stopped", "started"]
    assert set(losses(tmp_path / "run")) == {1, 2, 3}


def test_a_job_that_is_cancelled_stays_so(slurm: Cluster, long_config: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = slurm.launch(long_config, f"run.dir={run_dir}", NEVER, *CPU_JOB, "--nodes", "2")
    slurm.until(f"job {job} trains", lambda: last_step(run_dir) >= SOON)
    slurm.ask("scancel", job)
    assert slurm.end(job) == "CANCELLED"
    assert newest_step(run_dir) >= SOON
    assert slurm.job(job)["Restarts"] == "0"


def test_a_job_of_higher_priority(interrupted: Interrupted, uninterrupted: dict[int, float]) -> None:
    def preempt(_: str) -> None:
        interrupted.slurm.ask("srun", "-p", "high", "-N2", "-c2", "--mem=1000", "sleep", "2")

    notes = interrupted.by(preempt, NEVER, "--cpus-per-task", "2")
    assert kinds(notes) == ["started", "stopped", "started"]
    assert repeated(notes) == 0
    assert losses(interrupted.run_dir) == uninterrupted


def test_scontrol_requeue(interrupted: Interrupted, uninterrupted: dict[int, float]) -> None:
    notes = interrupted.by(lambda job: interrupted.slurm.ask("scontrol", "requeue", job), "checkpoint.every=10")
    assert kinds(notes).count("started") == 2
    assert losses(interrupted.run_dir) == uninterrupted


def test_a_node_that_fails(interrupted: Interrupted, uninterrupted: dict[int, float]) -> None:
    slurm = interrupted.slurm

    def fail(job: str) -> None:
        slurm.ask("scontrol", "update", f"nodename={NODES[1]}", "state=down", "reason=test")
        slurm.until("the job is out", lambda: slurm.job(job)["Restarts"] == "1")
        with suppress(AssertionError):  # the node's daemon may have spoken up, and taken it back
            slurm.ask("scontrol", "update", f"nodename={NODES[1]}", "state=resume")

    notes = interrupted.by(fail, "checkpoint.every=10")
    assert kinds(notes).count("started") == 2
    assert losses(interrupted.run_dir) == uninterrupted


def test_a_process_that_is_killed(interrupted: Interrupted, uninterrupted: dict[int, float]) -> None:
    notes = interrupted.by(lambda job: os.kill(process(job, rank=1), signal.SIGKILL), "checkpoint.every=10")
    assert kinds(notes) == ["started", "crashed", "started"]
    assert "rank 1" in notes[1]["reason"]
    assert 0 <= repeated(notes) <= 20  # the newest checkpoint may have been half written
    assert losses(interrupted.run_dir) == uninterrupted


def process(job: str, rank: int) -> int:
    wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={rank}".encode()}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            inside = wanted <= set((folder / "environ").read_bytes().split(b"\0"))
            if inside and b"submitit.core._submit" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no process of rank {rank} of job {job}")


def test_a_crash_that_comes_again(slurm: Cluster, long_config: Path, tmp_path: Path) -> None:
    hopeless = ("training.learning_rate=1e30", "training.clip_grad=1e30", "checkpoint.every=1")
    job = slurm.launch(long_config, f"run.dir={tmp_path / 'run'}", *hopeless, *CPU_JOB)
    assert slurm.end(job) == "FAILED"
    (journal,) = tmp_path.glob(f"run/launch/*/{job}_restarts.jsonl")
    notes = [json.loads(line) for line in journal.read_text().splitlines()]
    assert kinds(notes) == ["started", "crashed", "started", "crashed", "given up"]
    assert "loss=nan" in notes[-1]["reason"]
    assert (
        f"error: job {job} is not started again: it crashed twice" in journal.with_name(f"{job}_0_log.err").read_text()
    )
