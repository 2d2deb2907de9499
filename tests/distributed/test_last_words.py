"""Heartbeats and last words on disks that refuse them or hang: neither may hold up training or its end."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from armd_dist.heartbeat import FILE, Heartbeat
from armd_dist.parallel import heart, last_words
from armd_dist.parallel.heart import Heart


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def hanging(file: Path) -> Iterator[None]:
    """Who opens `file` inside waits: it is a pipe that nobody reads."""
    os.mkfifo(file)
    try:
        yield
    finally:
        os.close(os.open(file, os.O_RDWR))  # lets them go


def test_a_disk_that_refuses_heartbeats_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file stands where the run's folder was, as long as that goes on; then all is well."""
    monkeypatch.setattr(heart, "EVERY_S", 0.01)
    run_dir = tmp_path / "run"
    run_dir.touch()
    tried: list[None] = []
    write = Heartbeat.write
    monkeypatch.setattr(Heartbeat, "write", lambda *arguments: (tried.append(None), write(*arguments)))
    beats = Heart(run_dir, world_size=1, first_step=3, stop_at=7)
    while len(tried) < 5:
        time.sleep(0.01)
    assert Path(run_dir).is_file()
    run_dir.unlink()
    wait_for(run_dir / FILE)
    beats.report(4, loss=2.5, tokens_per_second=10.0)
    beats.end("stopped", "SIGTERM")
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {run_dir}")
    last = Heartbeat.read(run_dir)
    assert last is not None
    assert (last.state, last.reason, last.step, last.loss, last.first_step) == ("stopped", "SIGTERM", 4, 2.5, 3)


def test_the_heartbeat_knows_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    beats = Heart(tmp_path, world_size=2, first_step=0, stop_at=7)
    wait_for(tmp_path / FILE)
    first = json.loads((tmp_path / FILE).read_text())
    beats.end("finished", None)
    assert (first["state"], first["loss"], first["job"], first["process"]) == ("running", None, "4711", os.getpid())


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in (heart, last_words):
        monkeypatch.setattr(module, "PATIENCE_S", 0.2)
    (tmp_path / "stacks").mkdir()
    file = tmp_path / "stacks" / "rank-0.txt"
    before = time.monotonic()
    with hanging(tmp_path / f".{FILE}.{os.getpid()}.tmp"), hanging(file):
        beats = Heart(tmp_path, world_size=1, first_step=0, stop_at=1)
        last_words.show_stacks("rank 0", file)
        last_words.say_error("it hangs")
        beats.end("failed", "it hangs")
        assert beats.thread.is_alive()
        took = time.monotonic() - before
        said = capfd.readouterr().err
    assert took < 5
    assert f"in {test_a_disk_that_hangs_does_not_hold_up_the_end.__name__}\n" in said
    assert f"MainThread 0x{threading.main_thread().ident:016x}" in said
    assert said.endswith("error: it hangs\n")
    beats.thread.join(10)
