"""One job at a time in a run folder, and nothing left behind by one that is refused."""

import fcntl
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from armd_dist.errors import RunFolderError
from armd_dist.training import run_lock
from armd_dist.training.run_lock import RunLock


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "WAIT_HERE_S", 0.3)
    monkeypatch.setattr(run_lock, "LOOK_EVERY_S", 0.05)


def test_a_refused_start_leaves_nothing_that_it_made(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "mine"
    with RunLock(run_dir) as lock:
        lock.take()
        assert run_dir.exists()
    assert not list(tmp_path.iterdir())
    run_dir.mkdir(parents=True)
    with RunLock(run_dir) as lock:
        lock.take()
    assert list(run_dir.iterdir()) == []


def test_what_a_run_holds_stays(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "mine"
    with RunLock(run_dir) as lock:
        lock.take()
        (run_dir / "run.yaml").touch()
    assert sorted(path.name for path in run_dir.iterdir()) == ["lock", "run.yaml"]


def test_one_that_is_refused_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    with RunLock(tmp_path / "run") as holder:
        holder.take()
        for _ in range(2):
            with pytest.raises(RunFolderError, match="another job trains in it"), RunLock(tmp_path / "run") as lock:
                lock.take()


def test_one_that_waits_gets_a_lock_that_others_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job is refused while the second waits: it takes the file away that the second looks at."""
    monkeypatch.setattr(run_lock, "WAIT_HERE_S", 30.0)
    run_dir, second = tmp_path / "run", RunLock(tmp_path / "run")
    with RunLock(run_dir) as first:
        first.take()
        waiting = threading.Thread(target=second.take)
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
    waiting.join(10)
    monkeypatch.setattr(run_lock, "WAIT_HERE_S", 0.3)
    with second:
        with pytest.raises(RunFolderError, match="another job trains in it"), RunLock(run_dir) as third:
            third.take()
        assert (run_dir / "lock").exists()
    assert not run_dir.exists()


def test_a_file_that_is_taken_away_between_opening_and_locking_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, found = fcntl.flock, []

    def late(file: IO[str], how: int) -> None:
        found.append(how)
        if len(found) == 1:
            (tmp_path / "lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with RunLock(tmp_path) as lock:
        lock.take()
        assert len(found) == 2
        assert (tmp_path / "lock").read_text().startswith('{"host": ')
