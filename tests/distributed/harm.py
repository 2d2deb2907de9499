"""Jobs of bare steps under watch, for test_dead_ranks.py: in each, one process comes to harm.

Importing torch takes far longer than such a job, so that this process imports it once and forks all of them, as if they
had XX"""

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from ranks import free_port

from armd_dist.parallel.progress import beat, enter
from armd_dist.parallel.watch import Watch
from armd_dist.training.stopping import StopSignals

HARMED_STEP, STEPS, LONG_S, PATIENCE_S = 5, 8, 6, 60
# Its last word is on its way for so long.
LAST_WORD_S, SUSPENDED_S = 0.2, 5
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "asked to end": signal.SIGTERM}


def come_to_harm(harm: str, mark: Path) -> None:
    time.sleep(0.3)  # the others come to wait for this process
    mark.touch()
    if harm == "fails":
        raise ValueError("a bad shard")
    for _ in range(20 if harm == "suspended" else 0):
        time.sleep(0.1)
    for _ in range(LONG_S * 10 if harm == "slow" else 0):
        beat()
        time.sleep(0.1)
    if harm not in ("slow", "suspended"):
        time.sleep(600)


def steps(harm: str, harmed: int, minutes: float, run_dir: Path) -> None:
    """What one process does. `hangs late`: in the phase in which the others wait; `asked to end`: before any step."""
    mark = run_dir / "harmed"
    dist.init_process_group("gloo")
    rank, size, early = dist.get_rank(), dist.get_world_size(), harm == "asked to end"
    with StopSignals(size), Watch(rank, size, minutes, ends_early=early) as watch:
        watch.claimed(run_dir, 0, STEPS)
        enter("opening the data", 0)
        if early and rank == harmed:
            come_to_harm(harm, mark)
        for step in range(1, STEPS + 1):
            mine = step == HARMED_STEP and rank == harmed
            enter("reading data", step)
            if mine and harm != "hangs late":
                come_to_harm(harm, mark)
            enter("training")
            if mine and harm == "hangs late":
                come_to_harm(harm, mark)
            dist.all_reduce(torch.ones(1))
            if watch.heart is not None:
                watch.heart.report(step, loss=10.0 - step, tokens_per_second=100.0)


def fork(rank: int, world_size: int, port: int, folder: Path, job: dict[str, Any]) -> int:
    """Starts a process; returns its id."""
    child = os.fork()
    if child:
        return child
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    try:
        steps(job["harm"], job["rank"], job["minutes"], folder)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Job:
    """One job, and how its processes end."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job, self.harmed_at, self.left_alone = folder, job, 0.0, False
        self.seen_at = 0.0
        folder.mkdir()
        port = free_port()
        self.running = {rank: fork(rank, job["world"], port, folder, job) for rank in range(job["world"])}
        self.ended: dict[int, dict[str, Any]] = {}

    def look(self) -> None:
        now = time.monotonic()
        if not self.seen_at and (self.folder / "harmed").exists():
            self.seen_at = now
        if self.seen_at and not self.harmed_at and now > self.seen_at + LAST_WORD_S:
            self.harm()
        if self.job["harm"] == "suspended" and self.harmed_at and now > self.harmed_at + SUSPENDED_S:
            self.signal_all(signal.SIGCONT)
        for rank, process in list(self.running.items()):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                said = (self.folder / f"{rank}.err").read_text()
                code = os.waitstatus_to_exitcode(status)
                self.ended[rank] = {"code": code, "seconds": now - self.harmed_at, "said": said}
                del self.running[rank]
        if not self.left_alone and self.job["harm"] == "stopped" and list(self.running) == [self.job["rank"]]:
            self.left_alone = True
            os.kill(self.running[self.job["rank"]], signal.SIGCONT)

    def harm(self) -> None:
        self.harmed_at = time.monotonic()
        if self.job["harm"] in SIGNALS:
            os.kill(self.running[self.job["rank"]], SIGNALS[self.job["harm"]])
        if self.job["harm"] == "suspended":
            self.signal_all(signal.SIGSTOP)

    def signal_all(self, number: signal.Signals) -> None:
        for process in self.running.values():
            os.kill(process, number)


def main(jobs: dict[str, dict[str, Any]], folder: Path) -> None:
    started = [Job(folder / name, job) for name, job in jobs.items()]
    deadline = time.monotonic() + PATIENCE_S
    while any(job.running for job in started) and time.monotonic() < deadline:
        for job in started:
            job.look()
        time.sleep(0.02)
    for process in (process for job in started for process in job.running.values()):
        os.kill(process, signal.SIGKILL)
    ended = dict(zip(jobs, (job.ended for job in started), strict=True))
    (folder / "ended.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
