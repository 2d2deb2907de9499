"""A study's runs on this machine, a few at a time: trained, evaluated, tried again, stopped where they diverge.

Everything that is known of a run stands in its folder, so the same command goes on after any kill.
"""

import ctypes
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armd_dist.scaling.grid import PlannedRun, config_of
from armd_dist.scaling.standing import (
    ScalingError,
    ask_evaluation,
    divergence,
    eval_command,
    forget_note,
    is_evaluated,
    is_trained,
    note,
    run_dir,
    standing_of,
)
from armd_dist.scaling.study import Study

POLL_S, CHECK_S, STOP_S = 0.5, 10.0, 60.0
LOG_BYTES = 4096
PR_SET_PDEATHSIG = 1


@dataclass
class _Task:
    """A run on its way: the process of its training or evaluation."""

    planned: PlannedRun
    process: "subprocess.Popen[Any]"
    attempt: int
    checked: float = field(default_factory=time.monotonic)


class Local:
    """Leaves no process behind, however it ends. say: takes one line for each run that ends."""

    def __init__(self, study: Study, planned: Sequence[PlannedRun], say: Callable[[str], None]) -> None:
        self.study, self.planned, self.say = study, planned, say
        self.live: list[_Task] = []

    def prepare(self) -> None:
        """The study's own commands. Raises ScalingError where one fails."""
        for command in self.study.prepare:
            process = self._start(shlex.split(command), "prepare")
            self.live = [_Task(self.planned[0], process, 1)]
            code = process.wait()
            self.live = []
            if code:
                raise ScalingError(f"prepare: armd {command} ended with {code}: {self._last_error('prepare')}")

    def run(self, again: bool) -> None:
        """Does what is missing, until every run is complete or given up. again: those that diverged earlier, too."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with self._alone():
                self.prepare()
                self._all(again)
        finally:
            self._stop([task.process for task in self.live])
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Raises ScalingError where another command runs this study on this machine."""
        file = Path(self.study.dir) / "lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                rule = "another command runs this study; armd scaling status shows how far it is"
                raise ScalingError(f"{self.study.dir}: {rule}") from error
            yield

    def _all(self, again: bool) -> None:
        waiting = []
        for planned in self.planned:
            if again:
                forget_note(self.study, planned)
            if standing_of(self.study, planned).state not in ("complete", "diverged"):
                waiting.append(planned)
        while waiting or self.live:
            while waiting and len(self.live) < self.study.workers:
                self.live.append(self._next(waiting.pop(0), 1))
            time.sleep(POLL_S)
            self.live = [later for task in self.live if (later := self._look(task)) is not None]

    def _look(self, task: _Task) -> _Task | None:
        """The task as it goes on: itself, its next part, another attempt, or None where it is over."""
        planned, code = task.planned, task.process.poll()
        if code is None:
            if time.monotonic() - task.checked > CHECK_S and not is_trained(planned):
                task.checked = time.monotonic()
                return self._unless_diverged(task)
            return task
        diverged = divergence(planned, self.study.diverged_factor)
        if diverged is not None and not is_evaluated(self.study, planned):
            return self._give_up(planned, "diverged", diverged)
        if code == 0 and is_evaluated(self.study, planned):
            forget_note(self.study, planned)
            self.say(f"{planned.name}: complete")
            return None
        if code == 0 and is_trained(planned):
            return self._next(planned, task.attempt)
        reason = f"ended with {code}: {self._last_error(planned.name)}"
        if task.attempt >= self.study.attempts:
            return self._give_up(planned, "failed", f"{reason}, in attempt {task.attempt}")
        self.say(f"{planned.name}: {reason}; attempt {task.attempt + 1} of {self.study.attempts}")
        return self._next(planned, task.attempt + 1)

    def _unless_diverged(self, task: _Task) -> _Task | None:
        reason = divergence(task.planned, self.study.diverged_factor)
        if reason is None:
            return task
        self._stop([task.process])
        return self._give_up(task.planned, "diverged", reason)

    def _give_up(self, planned: PlannedRun, state: Any, reason: str) -> None:
        note(self.study, planned, state, reason)
        self.say(f"{planned.name}: {state}: {reason}")

    def _next(self, planned: PlannedRun, attempt: int) -> _Task:
        """Starts what the run lacks: its training, or its evaluation."""
        words = ["train", str(config_of(self.study, planned))]
        if is_trained(planned):
            ask_evaluation(self.study, planned)
            words = eval_command(self.study, planned, str(run_dir(planned)))
        return _Task(planned, self._start(words, planned.name), attempt)

    def _start(self, words: list[str], name: str) -> "subprocess.Popen[Any]":
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        count = self.study.hardware.count
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "armd_dist"]
        python = ["-m", "armd_dist"] if count == 1 or words[0] not in ("train", "eval") else launch
        with log.open("a") as output:
            print("$ armd", shlex.join(words), file=output, flush=True)
            return subprocess.Popen(
                [sys.executable, *python, *words],
                env={"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_end_with_parent,
            )

    def _log(self, name: str) -> Path:
        return Path(self.study.dir) / "logs" / f"{name}.log"

    def _last_error(self, name: str) -> str:
        """The last line that begins with `error:`, else the last one."""
        with self._log(name).open("rb") as file:
            file.seek(max(0, self._log(name).stat().st_size - LOG_BYTES))
            lines = file.read().decode(errors="replace").rpartition("$ armd ")[2].splitlines()[1:]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]

    def _stop(self, processes: "Sequence[subprocess.Popen[Any]]") -> None:
        """They save, and end."""
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _end_with_parent() -> None:
    """In the child: where the study is killed without a word, its runs stop too, and save. Linux alone can that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
