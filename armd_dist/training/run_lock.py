"""One job at a time in a run folder."""

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from armd_dist.errors import RunFolderError
from armd_dist.parallel.progress import beat

# What the system lets go of only later: a process that was just killed here, a machine that is gone from a network
# file system, which waits a while before it believes so.
WAIT_HERE_S, WAIT_ELSEWHERE_S = 2.0, 120.0
LOOK_EVERY_S = 0.2
NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """`run.dir/lock`, locked as long as the main process lives, however it ends. The block's end gives it back."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.file: TextIO | None = None

    def take(self) -> list[str]:
        """Locks the folder, which it makes; returns what to tell the user. Raises RunFolderError where it is taken."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.file = open(self.run_dir / "lock", "a+")  # noqa: SIM115 (it stays open)
        began = time.monotonic()
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._wait(time.monotonic() - began)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                return [f"run.dir={self.run_dir}: its file system has no locks: keep one job at a time in it"]
        self.file.truncate(0)
        holder = {"host": socket.gethostname(), "process": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
        self.file.write(json.dumps(holder) + "\n")
        self.file.flush()
        return []

    def _wait(self, waited: float) -> None:
        """A little while, where the holder may be about to end."""
        holder = self._holder()
        here = holder.get("host") == socket.gethostname()
        if waited < (WAIT_HERE_S if here else WAIT_ELSEWHERE_S):
            beat()
            time.sleep(LOOK_EVERY_S)
            return
        who = f"process {holder.get('process')} on {holder.get('host')}"
        if holder.get("job"):
            who += f", Slurm job {holder['job']}"
        raise RunFolderError(
            f"run.dir={self.run_dir}: another job trains in it ({who}); wait for it, end it, or choose another run.dir"
        )

    def _holder(self) -> dict[str, Any]:
        assert self.file is not None
        self.file.seek(0)
        try:
            return dict(json.loads(self.file.read()))
        except ValueError:  # it is just writing
            return {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.file is not None:
            self.file.close()
