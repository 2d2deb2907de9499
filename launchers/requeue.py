"""What becomes of a Slurm job that ends before its training does: it is started again, or given up with a reason.

After a signal, with a checkpoint saved, the first process asks Slurm for another start; as often as need be. After a
crash the batch script does, `python -m launchers.requeue`, within a budget, and not where two crashes in a row came
without an update saved in between. After a failed node, or `scontrol requeue`, Slurm does by itself.
JOB_restarts.jsonl in the job's folder tells of each start and each end.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import submitit

from launchers.errors import LaunchError
from launchers.reached import last_step, newest_step, newest_updates

# What squeue says of a job that Slurm has not ended; the second while a signal goes out to it.
GOES_ON = ("RUNNING", "SIGNALING", "RESIZING")
# Between one try and the next to speak with Slurm, which may be busy.
PAUSES_S = (1.0, 2.0, 4.0, 8.0)
# Starts in a row that come to nothing: a time limit may be shorter than a start. Preemption does so too, for a while.
MOST_IDLE = 10


@dataclass(frozen=True)
class Attempt:
    """One start of a Slurm job, seen from inside; `number` counts the starts before it."""

    folder: Path
    job_id: str
    number: int
    rank: int

    @classmethod
    def here(cls) -> Self | None:
        """The attempt that this process belongs to; None outside of Slurm, where nobody starts a job again."""
        place = submitit.JobEnvironment()
        if place.cluster != "slurm":
            return None
        number = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(place.paths.folder, place.job_id, number, place.global_rank)

    def begin(self, run_dir: Path) -> None:
        """Clears away what the last attempt said of its end; the first process says where this one begins."""
        (self.folder / f"{self.job_id}_{self.rank}_result.pkl").unlink(missing_ok=True)
        if self.rank != 0:
            if self.number:
                _say(self._restart)
            return
        # submitit takes a half-written file of a process that was killed for a mistake of its own.
        (self.folder / f"{self.job_id}_submitted.pkl.save_tmp").unlink(missing_ok=True)
        step, reached = newest_step(run_dir), last_step(run_dir)
        repeated = max(0, reached - step)
        self.note("started", step, repeated=repeated, processes=int(os.environ["SLURM_NTASKS"]))
        if self.number:
            _say(f"{self._restart}: continues from step {step}, repeats {repeated} step(s)")

    @contextmanager
    def requeued_on_signal(self) -> Iterator[None]:
        """Before training listens itself nothing can be lost: the job goes back into the queue at once.

        Afterwards signals mean nothing any more: a process on its way out is not to die of one.
        """

        def leave(number: int, _: object) -> None:
            if self.rank == 0:
                self.hand_over(f"{signal.Signals(number).name} before the first step", step=None)

        for number in _signals():
            signal.signal(number, leave)
        try:
            yield
        finally:
            _ignore_signals()

    def hand_over(self, reason: str, step: int | None) -> NoReturn:
        """Ends this process after a signal; the first one has Slurm start the job again, unless it is to end for good.

        step: of the checkpoint that was saved. Raises LaunchError where Slurm refuses.
        """
        _ignore_signals()
        # No process may fail: srun would end the first one before it has spoken with Slurm.
        if self.rank != 0:
            sys.exit(0)
        self.note("stopped", step, reason=reason)
        if step is None and self._idle() >= MOST_IDLE:
            told = f"{reason}, for the {MOST_IDLE}th time in a row: job {self.job_id} is not started again"
            self.note("given up", step, reason=told)
            raise LaunchError(f"{told}; give it more --time, or a partition that lets it begin")
        state = _state(self.job_id)
        if state in GOES_ON:
            _say(f"{reason}; job {self.job_id} goes back into the queue")
            self.requeue()
        else:
            _say(f"{reason}; job {self.job_id} is {state.lower()}, and stays as Slurm wants it")
        sys.exit(0)

    def _idle(self) -> int:
        """Starts in a row, up to this one, that ended before the first step."""
        steps = [note["step"] for note in self.notes("stopped")]
        return next((count for count, step in enumerate(reversed(steps)) if step is not None), len(steps))

    def requeue(self) -> None:
        """Raises LaunchError where Slurm refuses."""
        for pause in (*PAUSES_S, None):
            try:
                # Not by its signal handler, which would count time-outs and write the job's pickle anew.
                submitit.JobEnvironment()._requeue(0)
                return
            except (OSError, subprocess.SubprocessError) as error:
                if pause is None:
                    said = f"job {self.job_id} cannot be started again ({error})"
                    raise LaunchError(f"{said}; the same command continues from the newest checkpoint") from error
                time.sleep(pause)

    def note(self, kind: str, step: int | None, **details: Any) -> None:
        line = {"restart": self.number, "kind": kind, "step": step, **details, "time": time.time()}
        with open(self._journal, "a") as journal:
            journal.write(json.dumps(line) + "\n")

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """Of all attempts of this job, oldest first."""
        if not self._journal.exists():
            return []
        lines = [json.loads(line) for line in self._journal.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def results(self) -> list[Path]:
        """What processes left at their end, the first to end first."""
        found = self.folder.glob(f"{self.job_id}_*_result.pkl")
        return sorted(found, key=lambda file: file.stat().st_mtime_ns)

    def lines(self, log: Path) -> list[str]:
        """What a process has written to its log in this attempt; the attempts before it stand there too."""
        lines = log.read_text(errors="replace").splitlines()
        if self.number == 0:
            return lines
        begins = [number for number, line in enumerate(lines) if line.startswith(self._restart)]
        return lines[begins[-1] :] if begins else []

    @property
    def _restart(self) -> str:
        return f"restart {self.number} of job {self.job_id}"

    @property
    def _journal(self) -> Path:
        return self.folder / f"{self.job_id}_restarts.jsonl"


def after_crash(attempt: Attempt, run_dir: Path, max_crashes: int, code: int) -> None:
    """Starts the job again after its processes ended with `code`, or says why not."""
    told = any(note["restart"] == attempt.number for kind in ("stopped", "refused") for note in attempt.notes(kind))
    if told or _state(attempt.job_id) not in GOES_ON:  # else somebody has cancelled it, or put it back already
        return
    crashes, step, reason = attempt.notes("crashed"), newest_step(run_dir), _last_error(attempt, code)
    updates = newest_updates(run_dir)
    attempt.note("crashed", step, updates=updates, reason=reason)
    refusal = None
    if len(crashes) >= max_crashes:
        refusal = f"it has crashed {len(crashes) + 1} times, and cluster.max_crashes={max_crashes}"
    elif crashes and crashes[-1]["updates"] == updates:
        refusal = f"it crashed twice with no update saved in between (step {step})"
    if refusal is None:
        _say(f"job {attempt.job_id} crashed and is started again from step {step}; the error: {reason}")
        for file in attempt.results():
            file.unlink()  # who follows the job would take it for over
        attempt.requeue()
        return
    attempt.note("given up", step, reason=f"{refusal}; the last error: {reason}")
    _say(f"error: job {attempt.job_id} is not started again: {refusal}; the last error: {reason}")


def _last_error(attempt: Attempt, code: int) -> str:
    """What the first process that failed said: its exception, or its line that begins with `error:`."""
    for file in attempt.results():
        kind, left = pickle.loads(file.read_bytes())
        if kind == "error":
            return left.strip().splitlines()[-1]
    for log in attempt.folder.glob(f"{attempt.job_id}_*_log.err"):
        for line in attempt.lines(log):
            if line.startswith("error: "):
                return line.removeprefix("error: ")
    return f"exit code {code}, with no word from any process"


def _signals() -> tuple[int, ...]:
    return signal.SIGTERM, submitit.JobEnvironment()._usr_sig()


def _ignore_signals() -> None:
    for number in _signals():
        signal.signal(number, signal.SIG_IGN)


def _state(job_id: str) -> str:
    """As squeue names it; preemption or the time limit may have been announced. RUNNING where it does not answer."""
    for pause in (*PAUSES_S, 0.0):
        asked = subprocess.run(["squeue", "-h", "-j", job_id, "-o", "%T"], capture_output=True, text=True, check=False)
        if asked.returncode == 0 and asked.stdout.strip():
            return asked.stdout.strip()
        time.sleep(pause)
    return "RUNNING"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(folder: str, run_dir: str, max_crashes: str, code: str) -> None:
    """For the batch script, once its processes have ended with an error."""
    os.environ["SUBMITIT_FOLDER"] = folder
    attempt = Attempt.here()
    if attempt is not None:
        after_crash(attempt, Path(run_dir), int(max_crashes), int(code))


if __name__ == "__main__":
    main(*sys.argv[1:])
