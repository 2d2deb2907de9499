"""Ending a run's job from outside."""

import os
import signal
import socket
import subprocess

from launchers.errors import LaunchError
from launchers.queue import controls
from launchers.record import Record


def cancel(record: Record) -> None:
    """Asks Slurm, or the local controller, to end the job; returns at once. Raises LaunchError where that fails."""
    if record.kind == "slurm":
        _scancel(record.id)
    elif record.host != socket.gethostname():
        raise LaunchError(f"job {record.id} runs on {record.host}: cancel it there")
    elif controls(record):
        # The local controller passes SIGTERM on to processes that ignore it; an interrupt it takes to heart.
        os.kill(int(record.id), signal.SIGINT)


def _scancel(job: str) -> None:
    try:
        done = subprocess.run(["scancel", job], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchError("no scancel command on this machine: run this on a login node of the cluster") from error
    if done.returncode != 0:
        raise LaunchError(f"scancel refused job {job}: " + " ".join(done.stderr.split()))
