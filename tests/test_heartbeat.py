"""What a run's heartbeat says, and what is read of it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from armd_dist.errors import RunFolderError
from armd_dist.heartbeat import FILE, LATE_S, Heartbeat, duration

NOW = time.time()
RUNNING = Heartbeat(
    time=NOW,
    state="running",
    reason=None,
    step=150,
    stop_at=400,
    phase="training",
    loss=3.25,
    tokens_per_second=1234.5,
    started=NOW - 1000,
    first_step=100,
    host="node1",
    process=4600,
    job="77",
    world_size=8,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert Heartbeat.read(tmp_path) is None
    RUNNING.write(tmp_path)
    assert Heartbeat.read(tmp_path) == RUNNING
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert json.loads((tmp_path / FILE).read_text())["job"] == "77"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"time": 1}', '{"tempo": 1}'])
def test_another_file_is_told_as_one(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(RunFolderError, match=f"^{tmp_path}/{FILE}: cannot be read as a heartbeat"):
        Heartbeat.read(tmp_path)


def test_the_time_that_is_left() -> None:
    """50 steps took 1000 s, and 250 are to come."""
    assert RUNNING.eta_s == pytest.approx(5000)
    assert replace(RUNNING, step=100).eta_s is None
    assert replace(RUNNING, state="stopped").eta_s is None


def test_one_that_was_killed_is_late() -> None:
    assert not replace(RUNNING, time=time.time()).is_late
    old = replace(RUNNING, time=time.time() - LATE_S - 100)
    assert old.is_late
    assert old.age_s == pytest.approx(LATE_S + 100, abs=60)
    assert not replace(old, state="finished").is_late


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "step 150 of 400, training, loss 3.2500, 1,234 tokens/s, 1 h 23 min left"),
        ({"step": 100, "loss": None, "tokens_per_second": None}, "step 100 of 400, training"),
        ({"state": "finished", "step": 400}, "finished at step 400 of 400"),
        ({"state": "stopped", "reason": "SIGTERM"}, "stopped at step 150 of 400: SIGTERM"),
        ({"state": "failed", "reason": "rank 1 died"}, "failed at step 150 of 400: rank 1 died"),
    ],
)
def test_one_line_for_a_person(changes: dict[str, object], said: str) -> None:
    now = time.time()
    assert replace(RUNNING, time=now, started=now - 1000, **changes).describe() == said


def test_of_one_that_is_late_the_last_word() -> None:
    at = time.mktime((2026, 2, 3, 4, 5, 6, 0, 0, -1))
    late = replace(RUNNING, time=at, started=at - 1000)
    assert late.describe() == "no word since 2026-02-03 04:05:06, then at step 150 of 400, training"


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.9, "59 s"), (60, "1 min"), (7500, "2 h 5 min"), (86400 * 3 + 3600 * 4, "3 d 4 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
