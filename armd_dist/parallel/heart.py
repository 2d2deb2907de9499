"""Writes the heartbeat of a run, as its main process."""

import os
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from armd_dist.errors import describe
from armd_dist.heartbeat import EVERY_S, Heartbeat, State
from armd_dist.parallel.progress import here

# What a file system that hangs may hold up the end.
PATIENCE_S = 5.0


class Heart:
    """Writes heartbeat.json at once, again and again, and at the end.

    From a thread of its own: the watch must go on where the file system hangs.
    """

    def __init__(self, run_dir: Path, world_size: int, first_step: int, stop_at: int) -> None:
        self.run_dir = run_dir
        now = time.time()
        self.latest = Heartbeat(
            time=now,
            state="running",
            reason=None,
            step=first_step,
            stop_at=stop_at,
            phase=here().phase,
            loss=None,
            tokens_per_second=None,
            started=now,
            first_step=first_step,
            host=socket.gethostname(),
            process=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            world_size=world_size,
        )
        self.state: tuple[State, str | None] = "running", None
        self.ending, self.warned = threading.Event(), False
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.thread.start()

    def report(self, step: int, loss: float, tokens_per_second: float) -> None:
        """step: finished steps; loss: of the last one, nats per token."""
        self.latest = replace(self.latest, step=step, loss=loss, tokens_per_second=tokens_per_second)

    def end(self, state: State, reason: str | None) -> None:
        """Writes the last one; returns after PATIENCE_S at the latest."""
        self.state = state, reason
        self.ending.set()
        self.thread.join(PATIENCE_S)

    def _run(self) -> None:
        ended = False
        while not ended:
            self._write()
            ended = self.ending.wait(EVERY_S)
        self._write()

    def _write(self) -> None:
        state, reason = self.state
        now = replace(self.latest, time=time.time(), phase=here().phase, state=state, reason=reason)
        try:
            now.write(self.run_dir)
        except OSError as error:
            if not self.warned:
                self.warned = True
                text = f"{describe(error)}; training goes on, but who looks at its heartbeat takes it for dead"
                print(f"warning: {text}", file=sys.stderr, flush=True)
