"""`armd launch status`, `logs` and `cancel`, with stand-ins for Slurm's commands."""

import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from armd_dist.cli.launch import app
from armd_dist.heartbeat import Heartbeat
from launchers.errors import LaunchError
from launchers.queue import states_of
from launchers.record import Record, newest

VERBS = ("status", "logs", "cancel")
FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def armd_launch(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def launched(run_dir: Path, job: str = "42", processes: int = 1, **changes: object) -> Record:
    """A run whose job was started a minute ago."""
    folder = run_dir / "launch" / "20260101-120000"
    folder.mkdir(parents=True)
    values = {"id": job, "kind": "slurm", "folder": str(folder), "processes": processes}
    place = {"host": socket.gethostname(), "submitted": time.time() - 60}
    record = Record(**{**values, **place, **changes})  # pyright: ignore[reportArgumentType]
    record.write(run_dir)
    return record


def heartbeat(run_dir: Path, **changes: object) -> None:
    now = time.time()
    values = {"time": now - 5, "state": "running", "reason": None, "step": 1500, "stop_at": 2000, "phase": "training"}
    rates = {"loss": 2.5, "tokens_per_second": 12345.6, "started": now - 1505, "first_step": 0}
    place = {"host": "n1", "process": 1, "job": "42", "world_size": 1}
    Heartbeat(**{**values, **rates, **place, **changes}).write(run_dir)  # pyright: ignore[reportArgumentType]


def left(record: Record, rank: int, error: str | None = None) -> None:
    """What submitit leaves of a process that is done."""
    result = ("success", None) if error is None else ("error", f"Traceback\n  ...\n{error}\n")
    (Path(record.folder) / f"{record.id}_{rank}_result.pkl").write_bytes(pickle.dumps(result))


def squeue(*rows: str) -> str:
    return "\n".join(f"echo '{row}'" for row in rows)


def test_a_table_of_runs_from_slurm_and_heartbeat(tmp_path: Path, commands: Callable[..., Path]) -> None:
    folder = commands(
        squeue='echo "$@" >> "$(dirname "$0")/asked"\n'
        + squeue("42|RUNNING|None|3|2026-01-01T12:00:00|", "43_1|PENDING|Resources|0|2026-01-02T08:30:00|")
    )
    launched(tmp_path / "one")
    heartbeat(tmp_path / "one")
    launched(tmp_path / "two", "43_1")
    result = armd_launch("status", tmp_path / "one", tmp_path / "two")
    assert result.exit_code == 0, result.output
    one, two, why = [line.split() for line in result.stdout.splitlines() if str(tmp_path) in line]
    assert one[1:] == ["42", "running", "1,500", "of", "2,000", "2.5000", "12,346", "8", "min", "3", "5", "s", "ago"]
    assert two[1:] == ["43_1", "waiting", "0"]
    assert " ".join(why[1:]) == "waiting: Resources, start expected 2026-01-02 08:30:00"
    (asked,) = (folder / "asked").read_text().splitlines()  # one question for all runs
    assert "-j 42,43_1" in asked


@pytest.mark.parametrize(
    ("slurm", "name", "reason"),
    [
        (squeue("42|COMPLETED|None|1|x|"), "finished", None),
        (squeue("42|OUT_OF_MEMORY|OutOfMemory|0|x|"), "out of memory", "OutOfMemory"),
        (squeue("42|FAILED|NonZeroExitCode|0|x|"), "failed", "NonZeroExitCode"),
        (squeue("42|FAILED|JobLaunchFailure|0|x|"), "failed", "no folder of a file system that all nodes share?"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "unknown", "Unable to"),
        (FORGOTTEN, "lost", "2 of 2 processes left no result"),
    ],
)
def test_states_of_slurm_in_words(
    slurm: str, name: str, reason: str | None, tmp_path: Path, commands: Callable[..., Path]
) -> None:
    commands(squeue=slurm)
    record = launched(tmp_path, processes=2)
    state = states_of([record])[record]
    assert state.name == name
    assert state.reason is None if reason is None else reason in str(state.reason)


def test_accounts_and_results_know_what_the_queue_forgot(tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands(squeue=FORGOTTEN, sacct="echo '42|CANCELLED by 1000'")
    record = launched(tmp_path)
    assert states_of([record])[record].name == "cancelled"
    other = launched(tmp_path / "other", "44", processes=2)
    left(other, 0)
    left(other, 1, "armd_dist.errors.TrainingError: no cheese")
    assert states_of([other])[other].reason == "TrainingError: no cheese"
    left(other, 1)
    assert states_of([other])[other].name == "finished"


def test_a_job_that_ended_well_may_have_stopped_before_the_end(tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands(squeue=squeue("42|COMPLETED|None|0|x|"))
    launched(tmp_path / "run")
    heartbeat(tmp_path / "run", state="stopped", reason="SIGTERM")
    assert f"{tmp_path}/run: stopped: SIGTERM" in armd_launch("status", tmp_path / "run").stdout
    heartbeat(tmp_path / "run", state="stopped", reason="SIGTERM", time=time.time() - 3600)  # of the job before
    assert "stopped" not in armd_launch("status", tmp_path / "run").stdout


def test_folders_that_are_no_launched_runs_are_told(tmp_path: Path) -> None:
    for folder, complaint in ((tmp_path / "none", "is not a folder"), (tmp_path, "no job was started for it")):
        for verb in ("status", "logs", "cancel"):
            result = armd_launch(verb, folder)
            assert isinstance(result.exception, LaunchError)
            assert complaint in str(result.exception)
    launched(tmp_path)
    next(tmp_path.glob("launch/*/job.json")).write_text("{")
    assert "job.json: cannot be read" in str(armd_launch("status", tmp_path).exception)


def test_the_newest_job_counts(tmp_path: Path) -> None:
    old = launched(tmp_path)
    Record(
        **{**old.__dict__, "id": "43", "folder": str(tmp_path / "launch" / "later"), "submitted": time.time()}
    ).write(tmp_path)
    assert newest(tmp_path).id == "43"


def test_logs_end_with_their_last_lines(tmp_path: Path) -> None:
    record = launched(tmp_path, processes=2)
    assert "nothing has been written yet" in armd_launch("logs", tmp_path).stderr
    record.log(1).write_text("".join(f"line {number} of many\n" for number in range(10000)))
    result = armd_launch("logs", tmp_path, "--rank", 1, "-n", 5000)  # more than is read at a time
    assert result.stdout == "".join(f"line {number} of many\n" for number in range(5000, 10000))
    assert "use 0 to 1" in str(armd_launch("logs", tmp_path, "--rank", 2).exception)


def test_logs_follow_a_requeue_and_a_second_job(
    tmp_path: Path, commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launchers.logs.POLL_S", 0.02)
    monkeypatch.setattr("launchers.logs.SLURM_EVERY", 1)
    folder = commands(squeue='while read -r line; do echo "$line"; done < "$(dirname "$0")/state"')

    def slurm_says(*lines: str) -> None:
        (folder / "next").write_text("".join(line + "\n" for line in lines))
        (folder / "next").rename(folder / "state")
        time.sleep(0.2)

    first = launched(tmp_path)
    second = Record(**{**first.__dict__, "id": "43", "submitted": time.time()})
    first.log(0).write_text("before\n")

    def happens() -> None:
        slurm_says("42|PENDING|BeginTime|1|N/A|")
        with open(first.log(0), "a") as log:
            log.write("after\n")
        second.log(0).write_text("anew\n")
        second.write(tmp_path)
        slurm_says("42|CANCELLED|None|1|x|", "43|RUNNING|None|0|x|")
        slurm_says("43|COMPLETED|None|0|x|")

    slurm_says("42|RUNNING|None|0|x|")
    world = threading.Thread(target=happens)
    world.start()
    result = armd_launch("logs", "-f", tmp_path)
    world.join()
    assert result.stdout == "before\nafter\nanew\n"
    assert "job 42: waiting (BeginTime)\njob 42: cancelled; on to job 43\n" in result.stderr
    assert result.stderr.endswith(": finished\n")
    assert result.exit_code == 0


def test_cancel_asks_slurm_once(tmp_path: Path, commands: Callable[..., Path]) -> None:
    folder = commands(
        squeue=squeue("42|RUNNING|None|0|x|", "44|COMPLETED|None|0|x|"), scancel='echo "$@" >> "$(dirname "$0")/asked"'
    )
    launched(tmp_path / "one")
    launched(tmp_path / "two", "44")
    result = armd_launch("cancel", tmp_path / "one", tmp_path / "two")
    assert (folder / "asked").read_text() == "42\n"
    assert "two: job 44 is over already: finished" in result.stdout
    commands(scancel="echo 'scancel: error: Access denied' >&2; exit 1")
    assert str(armd_launch("cancel", tmp_path / "one").exception).endswith("job 42: scancel: error: Access denied")


def test_a_local_job_is_not_taken_for_a_process_of_the_same_number(tmp_path: Path) -> None:
    record = launched(tmp_path, str(os.getpid()), kind="local")
    assert states_of([record])[record].name == "lost"
    away = launched(tmp_path / "away", "1", kind="local", host="elsewhere")
    assert states_of([away])[away].reason == "it was started on elsewhere: ask there"


def test_a_login_node_needs_no_torch(tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands(squeue=squeue("42|RUNNING|None|0|x|"), scancel="exit 0")
    launched(tmp_path).log(0).write_text("words\n")
    heartbeat(tmp_path)
    verbs = "\n".join(f"app(['launch', '{verb}', {str(tmp_path)!r}], standalone_mode=False)" for verb in VERBS)
    code = (
        f"import sys\nfrom armd_dist.cli.main import app\n{verbs}\nassert not {{'torch', 'numpy'}} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(said in done.stdout for said in ("1,500 of 2,000", "words", "was told to end"))
