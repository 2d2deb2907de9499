"""When a job is started again and when it is given up, with stand-ins for Slurm's commands."""

import json
import pickle
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cluster_jobs import saved

from launchers.errors import LaunchError
from launchers.reached import last_step
from launchers.requeue import MOST_IDLE, Attempt, after_crash, main

ASKED = 'echo "$@" >> "$(dirname "$0")/asked"'


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    """The first start of job 7, in its first process."""
    (tmp_path / "job").mkdir()
    place = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SUBMITIT_FOLDER": str(tmp_path / "job"),
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
    }
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("launchers.requeue.PAUSES_S", (0.0, 0.0))
    found = Attempt.here()
    assert found == Attempt(tmp_path / "job", "7", 0, 0)
    return found


@pytest.fixture
def asked(commands: Callable[..., Path]) -> Callable[[], list[str]]:
    """What scontrol has been asked so far, where the job runs."""
    folder = commands(scontrol=ASKED, squeue="echo SIGNALING")
    return lambda: (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []


def reasons(attempt: Attempt) -> list[str]:
    return [note["reason"] for note in attempt.notes("given up")]


def test_crashes_with_progress_are_started_again_within_the_budget(
    attempt: Attempt, asked: Callable[[], list[str]], tmp_path: Path
) -> None:
    for number in range(3):
        saved(tmp_path, 10 * (number + 1))
        after_crash(replace(attempt, number=number), tmp_path, max_crashes=2, code=1)
    assert asked() == ["requeue 7"] * 2
    assert reasons(attempt) == [
        "it has crashed 3 times, and cluster.max_crashes=2; the last error: exit code 1, with no word from any process"
    ]


def test_two_crashes_without_progress_are_the_end(
    attempt: Attempt, asked: Callable[[], list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 10)
    after_crash(attempt, tmp_path, max_crashes=9, code=1)
    (attempt.folder / "7_1_result.pkl").write_bytes(
        pickle.dumps(("error", "Traceback\n  ...\nRuntimeError: no luck\n"))
    )
    after_crash(replace(attempt, number=1), tmp_path, max_crashes=9, code=1)
    assert asked() == ["requeue 7"]
    told = "it crashed twice with no update saved in between (step 10); the last error: RuntimeError: no luck"
    assert reasons(attempt) == [told]
    assert f"error: job 7 is not started again: {told}" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["stopped", "refused"])
def test_what_was_no_crash_is_left_alone(
    kind: str, attempt: Attempt, asked: Callable[[], list[str]], tmp_path: Path
) -> None:
    attempt.note(kind, 10, reason="told already")
    main(str(attempt.folder), str(tmp_path), "9", "1")
    assert asked() == []
    assert attempt.notes("crashed") == []


def test_the_error_named_is_of_this_attempt(attempt: Attempt, asked: Callable[[], list[str]], tmp_path: Path) -> None:
    log = attempt.folder / "7_1_log.err"
    log.write_text("error: of old\nrestart 1 of job 7\nerror: rank 0 died\nerror: in its wake\n")
    after_crash(replace(attempt, number=1), tmp_path, max_crashes=9, code=3)
    assert [note["reason"] for note in attempt.notes("crashed")] == ["rank 0 died"]
    log.write_text("error: of old\nrestart 1 of job 7\n")
    after_crash(replace(attempt, number=1), tmp_path, max_crashes=9, code=3)
    assert attempt.notes("crashed")[1]["reason"] == "exit code 3, with no word from any process"


def test_a_signal_puts_the_job_back_and_no_process_fails(attempt: Attempt, asked: Callable[[], list[str]]) -> None:
    for rank in (1, 0):
        with pytest.raises(SystemExit) as left:
            replace(attempt, rank=rank).hand_over("SIGUSR2: stopped", 12)
        assert left.value.code == 0
        assert len(asked()) == (rank == 0)
    assert asked() == ["requeue 7"]
    assert [(note["step"], note["reason"]) for note in attempt.notes("stopped")] == [(12, "SIGUSR2: stopped")]


def test_a_start_that_is_told_to_end_goes_back_and_one_that_is_over_listens_no_more(
    attempt: Attempt, asked: Callable[[], list[str]]
) -> None:
    with pytest.raises(SystemExit), attempt.requeued_on_signal():
        signal.raise_signal(signal.SIGUSR2)
    assert asked() == ["requeue 7"]
    assert attempt.notes("stopped")[0]["reason"] == "SIGUSR2 before the first step"
    with attempt.requeued_on_signal():
        pass
    signal.raise_signal(signal.SIGUSR2)
    assert asked() == ["requeue 7"]


@pytest.mark.parametrize("state", ["COMPLETING", "PENDING", "CANCELLED"])
def test_a_job_that_slurm_is_ending_stays_so(
    state: str, attempt: Attempt, commands: Callable[..., Path], tmp_path: Path
) -> None:
    folder = commands(scontrol=ASKED, squeue=f"echo {state}")
    after_crash(attempt, tmp_path, max_crashes=9, code=1)
    with pytest.raises(SystemExit):
        attempt.hand_over("SIGTERM: stopped", 12)
    assert not (folder / "asked").exists()


def test_starts_that_come_to_nothing_are_not_repeated_for_ever(
    attempt: Attempt, asked: Callable[[], list[str]]
) -> None:
    for number in range(MOST_IDLE - 1):
        attempt.note("stopped", None if number else 5, reason="before")
    with pytest.raises(SystemExit):
        attempt.hand_over("SIGUSR2 before the first step", None)
    with pytest.raises(LaunchError, match=r"SIGUSR2 before the first step, for the 10th time in a row: .* more --time"):
        attempt.hand_over("SIGUSR2 before the first step", None)
    assert asked() == ["requeue 7"]
    with pytest.raises(SystemExit):
        attempt.hand_over("SIGUSR2: stopped", 12)


def test_a_busy_slurm_is_asked_again(attempt: Attempt, commands: Callable[..., Path]) -> None:
    folder = commands(scontrol=ASKED + '\n[ "$(cat "$(dirname "$0")/asked" | wc -l)" -gt 2 ]', squeue="exit 1")
    for name in ("cat", "wc"):
        (folder / name).symlink_to(f"/usr/bin/{name}")
    with pytest.raises(SystemExit):
        attempt.hand_over("SIGTERM: stopped", 12)
    assert (folder / "asked").read_text() == "requeue 7\n" * 3


def test_a_refusal_of_slurm_is_told(attempt: Attempt, commands: Callable[..., Path]) -> None:
    commands(scontrol="exit 1", squeue="echo RUNNING")
    with pytest.raises(LaunchError, match=r"job 7 cannot be started again .*; the same command continues"):
        attempt.hand_over("SIGTERM: stopped", 12)


def test_the_next_start_forgets_results_and_counts_what_it_repeats(
    attempt: Attempt, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, 10)
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in range(1, 14)) + '{"ste'
    )
    (attempt.folder / "7_0_result.pkl").write_bytes(b"of the last attempt")
    assert last_step(tmp_path) == 13
    replace(attempt, number=2).begin(tmp_path)
    assert [(note["step"], note["repeated"]) for note in attempt.notes("started")] == [(10, 3)]
    assert "restart 2 of job 7: continues from step 10, repeats 3 step(s)" in capfd.readouterr().err
    assert not (attempt.folder / "7_0_result.pkl").exists()


def test_outside_of_slurm_nobody_starts_a_job_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "7")
    assert Attempt.here() is None
