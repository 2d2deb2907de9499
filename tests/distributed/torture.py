"""One run on two processes that is interrupted again and again, each time continued by the same command."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ranks import TIMEOUT_SECONDS, environment, free_port

from armd_dist.checkpoint.folder import complete_checkpoints

PARTIAL = "checkpoints/.step-*.partial"


@dataclass
class Report:
    """Interruptions so far: all, those in the middle of a save, steps done twice, and how the processes ended."""

    count: int = 0
    while_saving: int = 0
    repeated: int = 0
    codes: list[set[int]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.count} interruptions, {self.while_saving} during a save, {self.repeated} steps done again"


class Torture:
    """`arguments`: of `armd train`, which trains in `run_dir`."""

    def __init__(self, arguments: Iterable[object], run_dir: Path, seed: int) -> None:
        self.arguments, self.run_dir = [*map(str, arguments)], run_dir
        self.draw, self.report = random.Random(seed), Report()

    def kill(self, ranks: tuple[int, ...] = (0, 1)) -> None:
        """SIGKILL at a random moment: one in two times as soon as a checkpoint is in the making."""
        steps = self.draw.randint(1, 7)
        saving = self.draw.random() < 0.5
        self._interrupt(steps, saving, lambda job: [job[rank].kill() for rank in ranks])

    def ask(self, number: int, rank: int, again: int | None = None) -> None:
        """A signal to one process after some steps, and perhaps one to the other while a checkpoint is written."""

        def signals(job: list[subprocess.Popen]) -> None:
            job[rank].send_signal(number)
            if again is not None:
                self._wait(job, lambda: any(self.run_dir.glob(PARTIAL)), ended_is_fine=True)
                job[1 - rank].send_signal(again)

        self._interrupt(self.draw.randint(1, 4), False, signals)

    def finish(self) -> list[int]:
        return [process.wait(TIMEOUT_SECONDS) for process in self._start()]

    def _interrupt(self, steps: int, saving: bool, harm: Callable[[list[subprocess.Popen]], object]) -> None:
        job = self._start()
        try:
            begun = self._start_of(job)
            self._wait(job, lambda: self._steps() >= begun + steps)
            if saving:
                self._wait(job, lambda: any(self.run_dir.glob(PARTIAL)))
            else:
                time.sleep(self.draw.random() * 0.1)
            harm(job)
            self.report.codes.append({process.wait(TIMEOUT_SECONDS) for process in job})
        finally:
            for process in job:
                process.kill()
                process.wait()
        saved = complete_checkpoints(self.run_dir)
        self.report.count += 1
        self.report.while_saving += any(self.run_dir.glob(PARTIAL))
        self.report.repeated += self._steps() - (int(saved[-1].name.removeprefix("step-")) if saved else 0)

    def _start(self) -> list[subprocess.Popen]:
        """Both processes, by hand: torchrun would take longer to start than they."""
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        command = [sys.executable, "-m", "armd_dist", *self.arguments]
        log = self.run_dir.with_suffix(".log")
        with open(log, "a") as said:
            return [
                subprocess.Popen(
                    command, env={**environment(), **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=said
                )
                for rank in (0, 1)
            ]

    def _start_of(self, job: list[subprocess.Popen]) -> int:
        """The step at which this start begins; lines behind it are gone once it does."""
        stamp = self.run_dir / "run.yaml"
        before = os.stat(stamp).st_mtime_ns if stamp.exists() else 0
        self._wait(job, lambda: stamp.exists() and os.stat(stamp).st_mtime_ns != before)
        saved = complete_checkpoints(self.run_dir)
        begun = int(saved[-1].name.removeprefix("step-")) if saved else 0
        self._wait(job, lambda: self._steps() == begun)
        return begun

    def _steps(self) -> int:
        file = self.run_dir / "metrics.jsonl"
        return file.read_text().count("\n") if file.exists() else 0

    def _wait(self, job: list[subprocess.Popen], reached: Callable[[], bool], ended_is_fine: bool = False) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not reached():
            if any(process.poll() is not None for process in job):
                assert ended_is_fine, f"a process ended by itself: {self.run_dir.with_suffix('.log').read_text()}"
                return
            assert time.monotonic() < deadline, "the job did not get far enough"
            time.sleep(0.001)
