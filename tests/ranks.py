"""Starts what a user would start, on one process or several: `armd train ...`, or a script of the tests.

Where torch is needed, a process that holds it already forks (warm.py). What needs a new interpreter, or torchrun,
takes `anew`.
"""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from warm import Request

TESTS = Path(__file__).parent
TIMEOUT_SECONDS = 240
WITHOUT_TORCH = ("data", "checkpoint")


def environment() -> dict[str, str]:
    """One thread a process; nothing of an outer job."""
    outer = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in outer and not name.startswith("WANDB")}
    return {**kept, "OMP_NUM_THREADS": "1"}


class Warm:
    """The process of warm.py, which forks one job after the other."""

    def __init__(self) -> None:
        paths = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "properties")))
        self.process = subprocess.Popen(
            [sys.executable, str(TESTS / "warm.py")],
            env={**environment(), "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        atexit.register(self.process.communicate)

    def start(self, request: Request) -> int:
        """The id of the job's first process."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        answer = self.answer(TIMEOUT_SECONDS)
        assert answer is not None, "the warm process does not start"
        return answer

    def answer(self, seconds: float) -> int | None:
        """Of a job that was started: its exit code, None if it still runs after so long."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        line = self.process.stdout.readline()
        assert line, "the warm process has ended"
        return int(line)


class Job:
    """A job of the warm process, with what it says in files. processes: its ranks, None where it shall not be told."""

    _warm: Warm | None = None

    def __init__(self, words: list[str], processes: int | None, cwd: Path | None = None) -> None:
        Job._warm = self._server = Job._warm or Warm()
        self._folder = tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self._folder.name) / name for name in ("out", "err"))
        self.process = psutil.Process(
            self._server.start(
                {
                    "words": words,
                    "processes": processes,
                    "port": free_port(),
                    "cwd": str(cwd or Path.cwd()),
                    "environment": environment(),
                    "out": str(self.out),
                    "err": str(self.err),
                }
            )
        )

    def poll(self) -> int | None:
        return self._server.answer(0)

    def wait(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """At its end. Raises TimeoutError where it does not end, and kills it."""
        code = self._server.answer(seconds)
        if code is None:
            self.kill()
            raise TimeoutError(f"still runs after {seconds} s\n{self.err.read_text()}")
        return subprocess.CompletedProcess([], code, self.out.read_text(), self.err.read_text())

    def kill(self) -> None:
        """All of it, with SIGKILL."""
        for process in [*self.process.children(recursive=True), self.process]:
            process.kill()
        assert self._server.answer(TIMEOUT_SECONDS) is not None


def armd(*arguments: object, processes: int | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `armd ...`, on several ranks where `processes` is given. A process that dies ends the others at once."""
    if arguments[0] in WITHOUT_TORCH:
        return anew(*arguments, cwd=cwd)
    return Job(["-m", "armd_dist", *map(str, arguments)], processes, cwd).wait(TIMEOUT_SECONDS)


def anew(*arguments: object, processes: int | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `armd ...` in a new interpreter, under torchrun where `processes` is given."""
    words = command(*arguments, processes=processes)
    return subprocess.run(words, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_SECONDS)


def command(*arguments: object, processes: int | None = None) -> list[str]:
    """To start `armd ...` anew, under torchrun where `processes` is given."""
    launcher = [sys.executable]
    if processes is not None:
        launcher += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    return [*launcher, "-m", "armd_dist", *map(str, arguments)]


def on_ranks(script: Path, *arguments: object, processes: int = 2, timeout: int = TIMEOUT_SECONDS) -> None:
    """Runs a script of the tests on several processes; it may import the project and what the tests share."""
    done = Job([str(script), *map(str, arguments)], processes).wait(timeout)
    assert done.returncode == 0, done.stderr


def kill_when(arguments: list[object], reached: Path, step: int, processes: int, exists: Path | None = None) -> None:
    """Starts a job and kills all of it with SIGKILL as soon as metrics.jsonl holds `step` and a path exists."""
    job = Job(["-m", "armd_dist", *map(str, arguments)], processes)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (reached.exists() and len(reached.read_text().splitlines()) >= step) or (exists and not exists.exists()):
        assert job.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline, "the job did not get far enough"
        time.sleep(0.01)
    job.kill()


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
