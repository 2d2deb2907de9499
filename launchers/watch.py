"""A started job seen from outside: where it writes, how to end it, how it ended."""

import pickle
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import submitit

from launchers.record import last_words
from launchers.requeue import Attempt

POLL_S = 1.0
# Polls between two questions to Slurm, which serves all users of the cluster.
SLURM_EVERY = 15
# What the other processes get to end by themselves once one has failed.
GRACE_S = 30.0
# What a shared file system may take to show the results of processes that have ended.
RESULTS_S = 15.0
TAIL_LINES = 20


@dataclass(frozen=True)
class Failure:
    """How one process ended."""

    rank: int
    reason: str
    stderr: Path

    def tail(self) -> str:
        """The last lines that it wrote."""
        if not self.stderr.exists():
            return f"(no log: {self.stderr} was never written)"
        return "\n".join(self.stderr.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def log_file(job: submitit.Job[None], rank: int = 0) -> Path:
    """Where a process writes what it has to say."""
    return job.task(rank).paths.stderr


def follow(job: submitit.Job[None], show: Callable[[str], object]) -> list[Failure]:
    """Hands on what the first process writes until the job is over; returns the failures, likeliest cause first."""
    position, failed_at = 0, None
    for tick in count():
        over = _is_over(job, ask=tick % SLURM_EVERY == 0)  # asked before reading, so that no last line is missed
        position = _show_from(log_file(job), position, show)
        if over:
            break
        # Slurm ends the others by itself, and the job may start again.
        local = isinstance(job, submitit.LocalJob)
        if local and failed_at is None and any(kind == "error" for kind, _ in _reported(job).values()):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_S:
            job.cancel(check=False)
            break
        time.sleep(POLL_S)
    return _failures(job)


def interrupt(job: submitit.Job[None]) -> str:
    """What becomes of a job whose follower was interrupted, in words. A local one ends with it."""
    if not isinstance(job, submitit.LocalJob):
        return f"job {job.job_id} goes on; to end it: scancel {job.job_id}"
    # A terminal interrupts the controller together with us; a second time would disturb it while it cleans up.
    for _ in range(5):
        if job.done():
            break
        time.sleep(POLL_S)
    else:
        job.cancel()
    return f"job {job.job_id} was ended"


def _reported(job: submitit.Job[None]) -> dict[int, tuple[str, Any]]:
    """What each process that is done left: `success` and nothing, or `error` and a traceback."""
    # One listing of the folder: a shared file system refreshes by it, and is not asked about each of many files.
    present = {path.name for path in job.paths.folder.iterdir()}
    files = {rank: job.task(rank).paths.result_pickle for rank in range(_processes(job))}
    return {rank: pickle.loads(file.read_bytes()) for rank, file in files.items() if file.name in present}


def _processes(job: submitit.Job[None]) -> int:
    """That the job started with; where it got fewer nodes than it would have taken, not all that were prepared."""
    started = Attempt(job.paths.folder, job.job_id, 0, 0).notes("started")
    return started[-1]["processes"] if started else job.num_tasks


def _is_over(job: submitit.Job[None], ask: bool) -> bool:
    reported, local = _reported(job), isinstance(job, submitit.LocalJob)
    # One that has failed on Slurm may be about to start again.
    if len(reported) == _processes(job) and (local or all(kind == "success" for kind, _ in reported.values())):
        return True
    if local:
        return job.done()
    if not ask or _in_queue(job.job_id):
        return False
    deadline = time.monotonic() + RESULTS_S
    while len(_reported(job)) < _processes(job) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return True


def _in_queue(job_id: str) -> bool:
    """Whether Slurm still has the job waiting or running. Asked of squeue: sacct needs accounting, which some lack."""
    asked = subprocess.run(["squeue", "-h", "-j", job_id, "-o", "%T"], capture_output=True, text=True, check=False)
    if asked.returncode != 0:
        return "Invalid job id" not in asked.stderr  # any other trouble says nothing about the job
    return bool(asked.stdout.strip())


def _show_from(path: Path, position: int, show: Callable[[str], object]) -> int:
    if not path.exists():
        return position
    with open(path, "rb") as log:
        log.seek(position)
        text = log.read()
    if text:
        show(text.decode(errors="replace"))
    return position + len(text)


def _failures(job: submitit.Job[None]) -> list[Failure]:
    reported, told, silent = _reported(job), [], []
    for rank in range(_processes(job)):
        kind, left = reported.get(rank, ("nothing", None))
        if kind == "nothing":
            reason = "left no result: killed, perhaps for its memory or in the wake of another"
            silent.append(Failure(rank, reason, log_file(job, rank)))
        elif kind == "error":
            written = job.task(rank).paths.result_pickle.stat().st_mtime_ns
            told.append((written, Failure(rank, last_words(left), log_file(job, rank))))
    # The others of a job fail after the first, when it no longer answers them.
    return [failure for _, failure in sorted(told, key=lambda pair: pair[0])] + silent
