"""Starts the processes of a distributed test as a user would, with torchrun."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

TESTS = Path(__file__).parent
TIMEOUT_SECONDS = 240


def environment() -> dict[str, str]:
    """One thread a process; nothing of an outer job."""
    outer = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in outer and not name.startswith("WANDB")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def armd(*arguments: object, processes: int | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `armd ...`, under torchrun where `processes` is given. A process that dies ends the others at once."""
    return subprocess.run(
        command(*arguments, processes=processes),
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )


def command(*arguments: object, processes: int | None = None) -> list[str]:
    launcher = [sys.executable]
    if processes is not None:
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    return [*launcher, "-m", "armd_dist", *map(str, arguments)]


def torchrun(script: Path, *arguments: object, processes: int = 2, timeout: int = TIMEOUT_SECONDS) -> None:
    """Runs a script of the tests on several processes; it may import the project and what the tests share."""
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*launcher, f"--master-port={free_port()}", str(script), *map(str, arguments)],
        env={**environment(), "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "properties")))},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr


def kill_when(arguments: list[object], reached: Path, step: int, processes: int, exists: Path | None = None) -> None:
    """Starts a job and kills all of it with SIGKILL as soon as metrics.jsonl holds `step` and a path exists."""
    job = psutil.Popen(command(*arguments, processes=processes), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (reached.exists() and len(reached.read_text().splitlines()) >= step) or (exists and not exists.exists()):
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "the job did not get far enough"
        time.sleep(0.01)
    for process in [*job.children(recursive=True), job]:
        process.kill()
    job.wait()


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
