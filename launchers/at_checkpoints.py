"""Submits the commands of --at-checkpoints as their checkpoints come: a process of the batch script, beside training.

What was submitted stands in the run's folder, a Record for each command and step, written as soon as Slurm has taken
it. So each comes once, over requeues, crashes and later jobs of the same run. Where a node dies in the moment in
between it comes twice, and never not at all.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from armd_dist.checkpoint.folder import complete_checkpoints
from armd_dist.checkpoint.retention import step_of
from armd_dist.errors import describe
from launchers.config import ClusterConfig
from launchers.errors import LaunchError
from launchers.followup import CommandJob, arguments_of, executor_for
from launchers.record import Record, submitted_at_checkpoints
from launchers.slurm import queue

LOOK_EVERY_S = 20.0
# After a refusal: what Slurm limits is mostly a number of jobs, which others have to leave first.
RETRY_S = 600.0


@dataclass(frozen=True)
class Submitter:
    """The commands of one run. folder: of its job, with the code that runs. cluster: of the training."""

    run_dir: Path
    folder: Path
    every: int
    cluster: ClusterConfig
    commands: tuple[str, ...]

    def due(self) -> list[tuple[int, Path, str]]:
        """Steps, checkpoints and commands that have not been submitted, oldest first. Raises LaunchError, OSError."""
        done = submitted_at_checkpoints(self.run_dir)
        found = [(step_of(checkpoint), checkpoint) for checkpoint in complete_checkpoints(self.run_dir)]
        wanted = [(step, checkpoint) for step, checkpoint in found if step and step % self.every == 0]
        return [
            (step, checkpoint, command)
            for step, checkpoint in wanted
            for command in self.commands
            if (step, command) not in done
        ]

    def submit(self, step: int, checkpoint: Path, command: str) -> Record:
        """Raises LaunchError where Slurm refuses, OSError where there is no sbatch."""
        executor = executor_for(command, self.folder, self.cluster)
        executor.update_parameters(job_name=f"{executor.parameters['job_name']}-{step}")
        arguments = arguments_of(command, run=self.run_dir, checkpoint=checkpoint, step=step)
        with _undisturbed():
            with redirect_stderr(StringIO()):  # what sbatch says against it is in the error, to be told once
                (job,) = queue(executor, [CommandJob(arguments)])
            record = Record.of(job, command, step)
            record.write(self.run_dir)
        return record

    def look(self) -> str | None:
        """Submits what is due; says why not where that fails."""
        try:
            for step, checkpoint, command in self.due():
                record = self.submit(step, checkpoint, command)
                _say(f"checkpoint of step {step}: job {record.id} is armd {command}")
        except (LaunchError, OSError) as error:
            return f"{describe(error)}; training is not concerned"
        return None

    def watch(self) -> None:
        """Until SIGTERM. A refusal is told once."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        told = None
        while True:
            refused = self.look()
            if refused is not None and refused != told:
                _say(f"--at-checkpoints: {refused}; tried again every {RETRY_S / 60:.0f} minutes")
            told = refused or told
            time.sleep(LOOK_EVERY_S if refused is None else RETRY_S)

    def last(self) -> None:
        """Once training has ended."""
        refused = self.look()
        if refused is not None:
            _say(f"--at-checkpoints: {refused}; what is missing comes with the job's next start, or by hand: armd eval")


@contextmanager
def _undisturbed() -> Iterator[None]:
    """SIGTERM waits, also for the sbatch that is started inside, which might be taken and not be noted."""
    waiting: list[int] = []
    # A child inherits the mask. This process may have other threads, NumPy's, which take the signal in spite of it.
    handler = signal.signal(signal.SIGTERM, lambda number, _: waiting.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGTERM, handler)
        if waiting:
            os.kill(os.getpid(), signal.SIGTERM)


def _say(text: str) -> None:
    # Never as `error: ...`: who looks for the reason of a crash would take it for one.
    print(text, file=sys.stderr, flush=True)


def main(run_dir: str, folder: str, every: str, cluster: str, *words: str) -> None:
    """For the batch script; the last word is `watch` or `last`."""
    *commands, way = words
    settings = ClusterConfig.model_validate_json(cluster)
    submitter = Submitter(Path(run_dir), Path(folder), int(every), settings, tuple(commands))
    if way == "watch":
        submitter.watch()
    else:
        submitter.last()


if __name__ == "__main__":
    main(*sys.argv[1:])
