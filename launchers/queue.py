"""What has become of jobs: asked of Slurm, of the processes of this machine, and of what the jobs left behind."""

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launchers.errors import LaunchError
from launchers.record import Record

FIELDS = ("JobArrayID:40", "State:40", "Reason:200", "RestartCnt:20", "StartTime:40")
NAMES = {"PENDING": "waiting", "COMPLETED": "finished", "COMPLETING": "ending", "TIMEOUT": "out of time"}
OVER = ("finished", "failed", "cancelled", "out of time", "node fail", "out of memory", "boot fail", "deadline", "lost")
# What squeue says of a job whose log the node could not open: nothing else is left of it.
UNSEEN = "JobLaunchFailure"
# What it says where it is asked for a single job that it has forgotten; it is silent about one of many.
NO_SUCH = "Invalid job id"
END_BYTES = 1 << 16


@dataclass(frozen=True)
class JobState:
    """name: one word or two, as `waiting`, `running`, `finished`, `out of time`; reason: why, where somebody knows.

    restarts: how often Slurm has started it again; None where nobody knows.
    """

    name: str
    reason: str | None = None
    restarts: int | None = None

    @property
    def is_over(self) -> bool:
        return self.name in OVER


def states_of(records: Sequence[Record]) -> dict[Record, JobState]:
    """The state of each job, with at most two questions to Slurm for all of them together."""
    asked = [record.id for record in records if record.kind == "slurm"]
    known = _ask_squeue(asked) if asked else {}
    forgotten = [job for job in asked if job not in known]
    known |= _ask_sacct(forgotten) if forgotten else {}
    states: dict[Record, JobState] = {}
    for record in records:
        state = _local(record) if record.kind == "local" else known.get(record.id)
        states[record] = _explained(record, state)
    return states


def _ask_squeue(ids: list[str]) -> dict[str, JobState]:
    """Of all that are queued, running, or ended in the last minutes (Slurm's MinJobAge)."""
    columns, found = ",".join(f"{field}|" for field in FIELDS), {}
    try:
        lines = _lines("squeue", "-h", "-r", "-t", "all", "-j", ",".join(ids), "-O", columns)
    except LaunchError as error:
        return {} if NO_SUCH in str(error) else {job: JobState("unknown", str(error)) for job in ids}
    for line in lines:
        job, name, reason, restarts, start = (part.strip() for part in line.split("|")[:5])
        said = None if reason in ("", "None") else reason
        if name == "PENDING" and start not in ("", "N/A"):
            said = f"{said or 'queued'}, start expected {start.replace('T', ' ')}"
        found[job] = JobState(_name(name), said, int(restarts))
    return found


def _ask_sacct(ids: list[str]) -> dict[str, JobState]:
    """Of those that Slurm keeps only in its accounts; nothing where it keeps none."""
    try:
        lines = _lines("sacct", "-n", "-X", "-P", "-j", ",".join(ids), "-o", "JobID,State")
    except LaunchError:
        return {}
    return {job: JobState(_name(name)) for job, name in (line.split("|")[:2] for line in lines if "|" in line)}


def _lines(*command: str) -> list[str]:
    """What a command prints. Raises LaunchError."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise LaunchError(f"no {command[0]} command on this machine") from error
    if done.returncode != 0:
        raise LaunchError(f"{command[0]}: " + " ".join(done.stderr.split()))
    return done.stdout.splitlines()


def _name(slurm: str) -> str:
    word = slurm.split()[0]  # sacct says CANCELLED by 1000
    return NAMES.get(word, word.lower().replace("_", " "))


def _local(record: Record) -> JobState | None:
    """None where its controller has ended."""
    if record.host != socket.gethostname():
        return JobState("unknown", f"it was started on {record.host}: ask there")
    return JobState("running") if controls(record) else None


def controls(record: Record) -> bool:
    """Whether the controller of a local job lives: a process of its number whose command names the job's folder."""
    try:
        return record.folder.encode() in Path(f"/proc/{record.id}/cmdline").read_bytes()
    except OSError:
        return False


def _left_behind(record: Record) -> JobState:
    """From the results of its processes, of a job that nobody knows any more."""
    results, expected = record.results(), record.expected
    restarts = len(record.starts) - 1 if record.starts else None
    failures = [failure for failure in results.values() if failure is not None]
    if failures:
        return JobState("failed", failures[0], restarts)
    if len(results) == expected:
        return JobState("finished", None, restarts)
    missing = f"{expected - len(results)} of {expected} processes left no result: ended from outside"
    return JobState("lost", missing, restarts)


def _explained(record: Record, state: JobState | None) -> JobState:
    """With the reason that the job itself gave, or that Slurm gives in riddles. None: nobody knows the job any more."""
    if state is None:
        return _left_behind(record)
    if state.name == "unknown":  # what the job left tells more, once it is over
        left = _left_behind(record)
        return state if left.name == "lost" else left
    if state.name == "failed" and state.reason == UNSEEN:
        told = f"the first node could not write {record.folder}: no folder of a file system that all nodes share?"
        return JobState(state.name, told, state.restarts)
    if state.name == "failed":
        said = [result for result in record.results().values() if result is not None] or _errors(record.log(0))
        return JobState(state.name, said[0] if said else state.reason, state.restarts)
    return state


def _errors(log: Path) -> list[str]:
    """The errors at the end of a log, the last first."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - END_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")]
