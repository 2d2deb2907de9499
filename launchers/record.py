"""Which job a run belongs to: a small file beside the job's logs, read again by whoever follows the run later."""

import json
import pickle
import re
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import submitit

from armd_dist.errors import describe
from armd_dist.heartbeat import Heartbeat
from launchers.errors import LaunchError
from launchers.requeue import Attempt

FILE = "job.json"


@dataclass(frozen=True)
class Record:
    """A job as it was when it was started.

    id: Slurm's number (of a task in an array: 42_3), or the process id of the local controller. folder: its logs and
    results. processes: the most it may start with. host: where it was started, and where a local job runs. submitted:
    seconds since 1970. command: of --then or --at-checkpoints; empty for the training itself. step: of
    the checkpoint of --at-checkpoints.
    """

    id: str
    kind: Literal["slurm", "local"]
    folder: str
    processes: int
    host: str
    submitted: float
    command: str = ""
    step: int | None = None

    @classmethod
    def of(cls, job: submitit.Job[None], command: str = "", step: int | None = None) -> Self:
        """What to remember of a job that was just started."""
        kind = "local" if isinstance(job, submitit.LocalJob) else "slurm"
        place = str(job.paths.folder)
        return cls(job.job_id, kind, place, job.num_tasks, socket.gethostname(), time.time(), command, step)

    def write(self, run_dir: Path) -> None:
        """Leaves it in the run's folder, under the name of the job's own."""
        place = run_dir / "launch" / Path(self.folder).name
        place.mkdir(parents=True, exist_ok=True)
        name = f"then-{self.id}.json" if self.command else FILE
        # By rename: a job that writes one may be killed, or be looked at.
        partial = place / f".{name}.partial"
        partial.write_text(json.dumps(asdict(self), indent=2) + "\n")
        partial.rename(place / name)

    def log(self, rank: int, stream: Literal["err", "out"] = "err") -> Path:
        """Where a process writes. A job that is requeued goes on in the same file."""
        return Path(self.folder) / f"{self.id}_{rank}_log.{stream}"

    @property
    def starts(self) -> list[dict[str, Any]]:
        """What each start on Slurm noted of itself; nothing of one that did not come as far."""
        return Attempt(Path(self.folder), self.id, 0, 0).notes("started")

    @property
    def expected(self) -> int:
        """Processes of the last start; fewer than were prepared where it got fewer nodes than it would have taken."""
        return self.starts[-1]["processes"] if self.starts else self.processes

    def results(self) -> dict[int, str | None]:
        """How each process that is done ended: None if well, otherwise the last line of its traceback."""
        # One listing of the folder: a shared file system refreshes by it, and is not asked about each of many files.
        present = {path.name: path for path in Path(self.folder).glob(f"{self.id}_*_result.pkl")}
        found: dict[int, str | None] = {}
        for rank in range(self.expected):
            file = present.get(f"{self.id}_{rank}_result.pkl")
            if file is not None:
                kind, left = pickle.loads(file.read_bytes())
                found[rank] = last_words(left) if kind == "error" else None
        return found


def newest(run_dir: Path) -> Record:
    """The job that was started last for the run in `run_dir`. Raises LaunchError where there is none."""
    if not run_dir.is_dir():
        raise LaunchError(f"{run_dir}: is not a folder; give the run.dir of a run")
    files = list(run_dir.glob(f"launch/*/{FILE}"))
    if not files:
        beat = Heartbeat.read(run_dir)
        known = f"its last word, on {beat.host}: {beat.describe()}" if beat else "run.dir of the run is asked for"
        raise LaunchError(f"{run_dir}: no job was started for it with armd launch; {known}")
    return max(map(_read, files), key=lambda record: record.submitted)


def after(run_dir: Path, record: Record) -> list[Record]:
    """The job's commands of --then and --at-checkpoints, in the order of submission. Raises LaunchError."""
    files = (run_dir / "launch" / Path(record.folder).name).glob("then-*.json")
    return sorted(map(_read, files), key=lambda each: each.submitted)


def submitted_at_checkpoints(run_dir: Path) -> set[tuple[int | None, str]]:
    """Steps and commands of --at-checkpoints that any job of this run has submitted. Raises LaunchError."""
    return {(record.step, record.command) for record in map(_read, run_dir.glob("launch/*/then-*.json"))}


def _read(file: Path) -> Record:
    try:
        return Record(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise LaunchError(f"{file}: cannot be read ({describe(error)})") from error


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or, where it is no launched run but holds some as a sweep's does, those by name."""
    if not folder.is_dir() or any(folder.glob(f"launch/*/{FILE}")):
        return [folder]
    return sorted({file.parents[2] for file in folder.glob(f"*/launch/*/{FILE}")}) or [folder]


def last_words(trace: str) -> str:
    """The line of a traceback that says what happened, without the module of its error."""
    return re.sub(r"^(\w+\.)+(?=\w+: )", "", trace.strip().splitlines()[-1])
