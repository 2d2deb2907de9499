"""One job at a time in a run folder."""

import errno
import fcntl
import json
import os
import socket
import time
from contextlib import suppress
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
        self.run_dir, self.path = run_dir, run_dir / "lock"
        self.file: TextIO | None = None
        self.made: list[Path] = []  # folders, the innermost first

    def take(self) -> list[str]:
        """Locks the folder, which it makes; returns what to tell the user. Raises RunFolderError where it is taken."""
        began = time.monotonic()
        while True:
            file = self._open()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_there(file):
                    break
            except BlockingIOError:
                self._wait(_holder(file), time.monotonic() - began)
            except OSError as error:
                if error.errno not in NOT_SUPPORTED:
                    raise
                self.file = file
                return [f"run.dir={self.run_dir}: its file system has no locks: keep one job at a time in it"]
            file.close()
        self.file = file
        file.truncate(0)
        holder = {"host": socket.gethostname(), "process": os.getpid(), "job": os.environ.get("SLURM_JOB_ID")}
        file.write(json.dumps(holder) + "\n")
        file.flush()
        return []

    def _open(self) -> TextIO:
        missing = [folder for folder in (self.run_dir, *self.run_dir.parents) if not folder.exists()]
        self.made = self.made or missing
        self.run_dir.mkdir(parents=True, exist_ok=True)
        return open(self.path, "a+")

    def _is_there(self, file: TextIO) -> bool:
        """Whether it is still the one in the folder: a job that is refused takes its own away."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _wait(self, holder: dict[str, Any], waited: float) -> None:
        """A little while, where the holder may be about to end."""
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.file is None:
            return
        made = []
        with suppress(OSError):
            if os.listdir(self.run_dir) == [self.path.name]:  # the start was refused, and leaves nothing behind
                self.path.unlink()
                made = self.made
        self.file.close()
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _holder(file: TextIO) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.loads(file.read()))
    except ValueError:  # it is just writing
        return {}
