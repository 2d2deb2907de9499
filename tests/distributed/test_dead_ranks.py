"""A process that dies, hangs, stops or fails: the others name it and its step, and end in time."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from ranks import TIMEOUT_SECONDS, command, environment, free_port, metrics

from armd_dist.heartbeat import Heartbeat

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[1]
SHORT = 0.06  # minutes: 3.6 s
LOST = 3
AT_ONCE, LATE = 4.0, 60 * SHORT + 9.0  # seconds; much more than it takes, for machines that do much else

JOBS: dict[str, dict[str, Any]] = {
    "killed": {"world": 3, "harm": "killed", "rank": 1, "minutes": 5},
    "first_killed": {"world": 3, "harm": "killed", "rank": 0, "minutes": 5},
    "stopped": {"world": 3, "harm": "stopped", "rank": 2, "minutes": SHORT},
    "first_stopped": {"world": 2, "harm": "stopped", "rank": 0, "minutes": SHORT},
    "hangs": {"world": 3, "harm": "hangs", "rank": 1, "minutes": SHORT},
    "first_hangs": {"world": 2, "harm": "hangs", "rank": 0, "minutes": SHORT},
    "hangs_late": {"world": 3, "harm": "hangs late", "rank": 1, "minutes": SHORT},
    "fails": {"world": 3, "harm": "fails", "rank": 1, "minutes": 5},
    "asked_to_end": {"world": 2, "harm": "asked to end", "rank": 1, "minutes": 5},
    "hangs_alone": {"world": 1, "harm": "hangs", "rank": 0, "minutes": SHORT},
    "slow": {"world": 2, "harm": "slow", "rank": 1, "minutes": SHORT},
    "slow_alone": {"world": 1, "harm": "slow", "rank": 0, "minutes": SHORT},
    "suspended": {"world": 2, "harm": "suspended", "rank": 1, "minutes": SHORT},
    "suspended_alone": {"world": 1, "harm": "suspended", "rank": 0, "minutes": SHORT},
}
SAID = {
    "killed": (AT_ONCE, r"rank 1 \(.+, process \d+\) died; last word 0\.\d s before, in step 5, reading data"),
    "first_killed": (AT_ONCE, r"rank 0 \(.+, process \d+\) died; last word 0\.\d s before, in step 5, reading data"),
    "stopped": (LATE, r"no word from rank 2 \(.+\) for \d+ s, last in step 5, reading data: it is stopped, or its"),
    "first_stopped": (LATE, r"no word from rank 0 \(.+\) for \d+ s, last in step 5, reading data: it is stopped, or"),
    "hangs": (LATE, r"rank 1 \(.+\) hangs, for \d s in step 5, reading data"),
    "first_hangs": (LATE, r"rank 0 \(.+\) hangs, for \d s in step 5, reading data"),
    "hangs_late": (LATE, r"rank 1 \(.+\) hangs, for \d s in step 5, training"),
    "hangs_alone": (LATE, r"rank 0 \(.+\) hangs, for \d s in step 5, reading data"),
    "fails": (AT_ONCE, r"rank 1 \(.+\) failed in step 5, reading data: ValueError: a bad shard"),
    "asked_to_end": (
        AT_ONCE + 5,
        r"rank 1 \(.+\) failed before the first step, opening the data: was asked to end",
    ),
}
# What becomes of the one that came to harm; a stopped one is told to go on when all others have ended.
OWN_END = {"killed": -9, "first_killed": -9, "fails": 1, "asked_to_end": 143}


# Those in which no step was done for too long.
HUNG = [name for name, (seconds, _) in SAID.items() if seconds == LATE]
WELL = ["slow", "slow_alone", "suspended", "suspended_alone"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the run folders of the jobs."""
    return tmp_path_factory.mktemp("harm")


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(HERE / "harm.py"), json.dumps(JOBS), str(folder)],
        env={**environment(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "ended.json").read_text())


@pytest.mark.parametrize("name", SAID)
def test_the_others_name_it_and_end(name: str, ended: dict[str, dict[str, dict[str, Any]]]) -> None:
    harmed, (seconds, said) = str(JOBS[name]["rank"]), SAID[name]
    assert len(ended[name]) == JOBS[name]["world"], "a process was left over"
    for rank, end in ended[name].items():
        if rank == harmed:
            assert end["code"] == OWN_END.get(name, LOST), end["said"]
            if end["code"] == LOST:
                assert re.search(rf"^error: {said}.*; rank {rank} ends, in step 5, ", end["said"], re.M), end["said"]
            continue
        assert end["code"] == LOST, end["said"]
        step = 1 if name == "asked_to_end" else 5
        assert re.search(rf"^error: {said}.*; rank {rank} ends, in step {step}, training$", end["said"], re.M), end[
            "said"
        ]
        assert end["seconds"] < seconds
        assert "Traceback" not in end["said"]


@pytest.mark.parametrize("name", WELL)
def test_one_that_is_slow_or_was_suspended_goes_on(name: str, ended: dict[str, dict[str, dict[str, Any]]]) -> None:
    assert [end["code"] for end in ended[name].values()] == [0] * JOBS[name]["world"]
    assert not any(end["said"] for end in ended[name].values())


@pytest.mark.parametrize("name", HUNG)
def test_all_show_their_stacks_after_a_hang(
    name: str, folder: Path, ended: dict[str, dict[str, dict[str, Any]]]
) -> None:
    for rank, end in ended[name].items():
        kept = (folder / name / "stacks" / f"rank-{rank}.txt").read_text()
        for text in (kept, end["said"]):
            assert text.count(f"stacks of rank {rank} (") == 1
            where = "come_to_harm" if int(rank) == JOBS[name]["rank"] else "all_reduce"
            main = re.search(r"MainThread (0x[0-9a-f]{16})", text)
            assert main is not None
            stack = text.split(f"Thread {main[1]} (most recent call first):")[1].split("\n\n")[0]
            assert re.search(rf"in {where}\n.*in steps\n", stack, re.S), stack
        assert end["said"].splitlines()[-1].startswith("error: ")


def test_an_ordinary_death_needs_no_stacks(folder: Path, ended: dict[str, dict[str, dict[str, Any]]]) -> None:
    for name in set(JOBS) - set(HUNG):
        assert not (folder / name / "stacks").exists()
        assert not any("stacks of" in end["said"] for end in ended[name].values())


@pytest.mark.parametrize("name", JOBS)
def test_the_heartbeat_says_how_it_ended(name: str, folder: Path, ended: dict[str, dict[str, dict[str, Any]]]) -> None:
    beat = Heartbeat.read(folder / name)
    assert beat is not None
    assert (beat.first_step, beat.stop_at, beat.world_size) == (0, 8, JOBS[name]["world"])
    if name in WELL:
        assert (beat.state, beat.reason, beat.step, beat.loss) == ("finished", None, 8, 2.0)
    elif name == "first_killed":
        assert (beat.state, beat.reason) == ("running", None)
    else:
        assert (beat.state, beat.step, beat.loss) == ("failed", *((0, None) if name == "asked_to_end" else (4, 6.0)))
        assert re.match(SAID[name][1], beat.reason or "")
        assert beat.phase in ("training", "reading data")


@contextmanager
def started(arguments: list[list[str]], environments: list[dict[str, str]], log: Path) -> Iterator[list[psutil.Popen]]:
    """Processes that write to LOG.0, LOG.1 ..., with their children killed in the end whatever happens."""
    running = []
    try:
        for number, (words, variables) in enumerate(zip(arguments, environments, strict=True)):
            with open(f"{log}.{number}", "w") as stream:
                running.append(psutil.Popen(words, env={**environment(), **variables}, stderr=stream))
        yield running
    finally:
        for process in running:
            if process.poll() is None:
                for one in [*process.children(recursive=True), process]:
                    one.kill()
                process.wait()


def wait_for_step(run_dir: Path, step: int, running: list[psutil.Popen]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (run_dir / "metrics.jsonl").exists() or len(metrics(run_dir)) < step:
        assert all(process.poll() is None for process in running), "a process ended too early"
        assert time.monotonic() < deadline, "training did not get far enough"
        time.sleep(0.05)


def test_training_under_torchrun(tiny_config: Path, tmp_path: Path) -> None:
    run_dir, log = tmp_path / "run", tmp_path / "log"
    words = ["train", tiny_config, f"run.dir={run_dir}", "training.steps=100000", "checkpoint.every=100000"]
    with started([command(*words, processes=2)], [{}], log) as (launcher,):
        wait_for_step(run_dir, 3, [launcher])
        ranks = {process.environ()["RANK"]: process for process in launcher.children()}
        ranks["1"].kill()
        assert launcher.wait(timeout=30) == 1
        said = Path(f"{log}.0").read_text()
        (step,) = re.findall(r"^error: rank 1 \(.+\) died; .+; rank 0 ends, in step (\d+), ", said, re.M)
        assert int(step) >= 3
        assert not any(process.is_running() for process in ranks.values())


def test_training_started_by_hand(tiny_config: Path, tmp_path: Path) -> None:
    """Rank 1 hangs in reading the data of the tenth step."""
    run_dir, log = tmp_path / "run", tmp_path / "log"
    script = (
        "import os, time; from armd_dist.cli.main import main; from data_pipeline.stream import TokenStream as Stream\n"
        "whole, calls = Stream.samples, []\n"
        "def samples(self, numbers):\n"
        "    calls.append(numbers)\n"
        "    if os.environ['RANK'] == '1' and len(calls) == 10: time.sleep(600)\n"
        "    return whole(self, numbers)\n"
        "Stream.samples = samples\n"
        "main()\n"
    )
    words = [sys.executable, "-c", script, "train", str(tiny_config), f"run.dir={run_dir}"]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{**place, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    with started([[*words, "parallel.timeout_minutes=0.2"]] * 2, places, log) as running:
        wait_for_step(run_dir, 9, running)
        last_step = time.monotonic()
        assert [process.wait(timeout=30) for process in running] == [LOST, LOST]
        assert time.monotonic() - last_step < 12 + 6
    for rank in "01":
        said = Path(f"{log}.{rank}").read_text()
        place = r"in step 10, reading data, in armd_dist\.training\.batches\.from_step \(line \d+\)"
        assert re.search(rf"^error: rank 1 \(.+\) hangs, for 12 s {place}; rank {rank} ends, in step 10, ", said, re.M)
        stacks = (run_dir / "stacks" / f"rank-{rank}.txt").read_text()
        assert re.search(
            r'in samples\n.*"/.+/armd_dist/training/batches\.py"' if rank == "1" else r"in train_step\n", stacks
        )
    beat = Heartbeat.read(run_dir)
    assert beat is not None
    assert (beat.state, beat.step, beat.first_step, beat.stop_at) == ("failed", 9, 0, 20)
    assert beat.loss == metrics(run_dir)[-1]["loss"]
    assert f"rank 1 ({beat.host}, process " in str(beat.reason)
