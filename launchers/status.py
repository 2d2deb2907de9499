"""How far a run is: the state of its job beside the run's own last word."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from armd_dist.heartbeat import Heartbeat
from launchers.queue import JobState, states_of
from launchers.record import Record, after, newest, runs_in


@dataclass(frozen=True)
class Status:
    """heartbeat: the last word of any of this run's jobs; None before the first, and of a command that comes after."""

    run_dir: Path
    record: Record
    state: JobState
    heartbeat: Heartbeat | None

    @property
    def title(self) -> str:
        """The run's folder, or the command that comes after it."""
        record = self.record
        if record.step is not None:
            return f"  at {record.step:,} {record.command}"
        return f"  then {record.command}" if record.command else str(self.run_dir)

    @property
    def name(self) -> str:
        """The job's state, but that a job which ended well may have stopped before the run's end."""
        beat = self.heartbeat
        if self.state.name == "finished" and self.is_of_this_job and beat is not None and beat.state == "stopped":
            return "stopped"
        return self.state.name

    @property
    def reason(self) -> str | None:
        """Why, as Slurm says it of a job that goes on, and the run itself of one that is over."""
        beat = self.heartbeat
        if beat is None or not self.is_of_this_job or not self.state.is_over or beat.state in ("running", "finished"):
            return self.state.reason
        return beat.reason or self.state.reason

    @property
    def is_of_this_job(self) -> bool:
        """Whether the last word is of the newest job, and not of one before it."""
        return self.heartbeat is not None and self.heartbeat.time >= self.record.submitted


def statuses_of(folders: Sequence[Path]) -> list[Status]:
    """Of run folders and folders of sweeps, in the order asked for; behind each run what comes after it.

    Of the commands at checkpoints, of which there may be hundreds, those that ended well are left out but for the last.
    Raises LaunchError or RunFolderError where a folder is not that of a launched run.
    """
    run_dirs = [run_dir for folder in folders for run_dir in runs_in(folder)]
    jobs = [(run_dir, newest(run_dir)) for run_dir in run_dirs]
    later = [after(run_dir, job) for run_dir, job in jobs]
    states = states_of([each for (_, job), commands in zip(jobs, later, strict=True) for each in (job, *commands)])
    found = []
    for (run_dir, job), commands in zip(jobs, later, strict=True):
        found.append(Status(run_dir, job, states[job], Heartbeat.read(run_dir)))
        for each in commands:
            if each.step is None or states[each].name != "finished" or each is commands[-1]:
                found.append(Status(run_dir, each, states[each], None))
    return found
