"""`armd train` on two processes, whose upload to wandb at the end takes longer than the watch has patience."""

import json
import sys
import time
from pathlib import Path

import torch.distributed as dist
import wandb

from armd_dist.config import load_run
from armd_dist.heartbeat import Heartbeat
from armd_dist.parallel.watch import Watch
from armd_dist.training import loop
from armd_dist.training.run_lock import RunLock

PATIENCE_S, UPLOAD_S = 0.5, 4.0


def slow_upload(run_dir: Path) -> None:
    """A slow network cannot be had here: the upload waits. From then on a watch that looks still would end it."""
    watches: list[Watch] = []
    locks: list[RunLock] = []
    enter_watch, enter_lock, finish = Watch.__enter__, RunLock.__enter__, wandb.Run.finish

    def watched(watch: Watch) -> Watch:
        watches.append(watch)
        return enter_watch(watch)

    def locked(lock: RunLock) -> RunLock:
        locks.append(lock)
        return enter_lock(lock)

    def slowly(run: wandb.Run) -> None:
        watches[0].timeout_s = PATIENCE_S
        beat, held = Heartbeat.read(run_dir), locks[0].file is not None and not locks[0].file.closed
        time.sleep(UPLOAD_S)
        assert beat is not None
        (run_dir / "seen.json").write_text(json.dumps([beat.state, dist.is_initialized(), held]))
        finish(run)

    Watch.__enter__, RunLock.__enter__, wandb.Run.finish = watched, locked, slowly  # type: ignore[method-assign]


if __name__ == "__main__":
    settings = load_run(Path(sys.argv[1]), sys.argv[2:])
    slow_upload(Path(settings.run.dir))
    loop.train(settings)
