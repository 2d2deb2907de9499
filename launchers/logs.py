"""The log of one process of a run's job, as it grows, however often the job is requeued or submitted anew."""

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from launchers.errors import LaunchError
from launchers.queue import JobState, states_of
from launchers.record import Record, newest

POLL_S = 1.0
# Polls between two questions to Slurm, which serves all users of the cluster.
SLURM_EVERY = 15
CHUNK = 1 << 16


def tail(record: Record, rank: int, lines: int, show: Callable[[bytes], object]) -> int:
    """Shows the last `lines` lines of a process; returns where they end, in bytes. Raises LaunchError."""
    if rank >= record.processes:
        raise LaunchError(
            f"--rank {rank}: job {record.id} has {record.processes} process(es); use 0 to {record.processes - 1}"
        )
    file = record.log(rank)
    if not file.exists():
        return 0
    text, end = b"", file.stat().st_size
    with open(file, "rb") as log:
        start = end
        while start > 0 and text.count(b"\n") <= lines:
            size = min(CHUNK, start)
            start -= size
            log.seek(start)
            text = log.read(size) + text
    show(b"".join(text.splitlines(keepends=True)[-lines:]))
    return end


def follow(
    run_dir: Path, rank: int, lines: int, show: Callable[[bytes], object], tell: Callable[[str], object]
) -> JobState:
    """Shows the last lines and whatever comes, until the job is over; returns how it ended.

    A requeued job writes on in its log; where the run was submitted again meanwhile, its new job is followed. `tell`
    gets what is said about the job itself, as that it waits. Raises LaunchError.
    """
    record, said = newest(run_dir), None
    position = tail(record, rank, lines, show)
    for tick in count():
        if tick % SLURM_EVERY == 0:
            state = states_of([record])[record]  # asked before reading, so that no last line is missed
            position = _show_from(record.log(rank), position, show)
            later = newest(run_dir) if state.is_over else record
            if later == record and state.is_over:
                return state
            if later != record:
                tell(f"job {record.id}: {state.name}; on to job {later.id}")
                record, position, state = later, 0, JobState("running")
            elif state.name not in ("running", said):
                tell(f"job {record.id}: {state.name}" + (f" ({state.reason})" if state.reason else ""))
            said = state.name
        position = _show_from(record.log(rank), position, show)
        time.sleep(POLL_S)
    raise AssertionError("count ends never")


def _show_from(path: Path, position: int, show: Callable[[bytes], object]) -> int:
    try:
        with open(path, "rb") as log:
            log.seek(position)
            text = log.read()
    except FileNotFoundError:
        return position
    if text:
        show(text)
    return position + len(text)
