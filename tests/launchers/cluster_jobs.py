"""A running test cluster, asked and told as a user would."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from launchers.snapshot import PACKAGES

# The machine may be busy with other tests.
PATIENCE_S = 480.0
CPU_JOB = ("--gpus-per-node", "0", "--cpus-per-task", "1", "--time", "0:10:00")
ACTIVE = {"PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "SUSPENDED", "REQUEUED", "PREEMPTED"}


@dataclass(frozen=True)
class Cluster:
    """The Slurm whose files lie in `folder`."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Of a user's shell on its login node."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def ask(self, *command: object, cwd: Path | None = None, **environment: str) -> str:
        """What a command prints. Raises AssertionError where it fails."""
        done = subprocess.run(
            list(map(str, command)),
            env={**self.environment, **environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def launch(self, *arguments: object, cwd: Path | None = None, **environment: str) -> str:
        """Submits with `armd launch slurm`; the job's id."""
        said = self.ask(sys.executable, "-m", "armd_dist", "launch", "slurm", *arguments, cwd=cwd, **environment)
        found = re.search(r"^job (\d+):", said, re.MULTILINE)
        assert found, said
        return found.group(1)

    def job(self, job_id: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, Reason, NodeList ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.ask("scontrol", "-o", "show", "job", job_id)))

    def state(self, job_id: str) -> str:
        return self.job(job_id)["JobState"]

    def end(self, job_id: str) -> str:
        """The job's last state, waited for."""
        self.until(f"job {job_id} ends", lambda: self.state(job_id) not in ACTIVE)
        return self.state(job_id)

    def until(self, what: str, reached: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert time.monotonic() < deadline, f"waited in vain until {what}\n{self.ask('squeue', '-l')}"
            time.sleep(0.3)


def checkout_in(folder: Path) -> Path:
    """A copy of our packages, to be edited."""
    for package in PACKAGES:
        source, copy = Path(__file__).parents[2] / package, folder / "checkout" / package
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / "checkout"


def saved(run_dir: Path, step: int) -> None:
    """Makes what looks like a checkpoint."""
    folder = run_dir / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "COMPLETE").write_text("{}")


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of each step."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}
