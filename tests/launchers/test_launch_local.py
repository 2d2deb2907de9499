"""`armd launch local` with real processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError


def armd_launch(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, behind pipes, as a script would call it."""
    command = [sys.executable, "-c", "from armd_dist.cli.launch import app; app()", "local", *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.slow
def test_two_processes_train_one_model(config: Path, tmp_path: Path) -> None:
    done = armd_launch(str(config), "parallel.tensor=2", "--processes", "2", "--wait")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert "tensor 2 x data 1" in done.stderr
    assert done.stderr.count("Stages") == 1
    assert "is done" in done.stdout
    (folder,) = (tmp_path / "run" / "launch").iterdir()
    assert {path.name.split("_", 1)[1] for path in folder.glob("*_log.err")} == {"0_log.err", "1_log.err"}


@pytest.mark.slow
def test_a_job_that_fails_says_why(config: Path, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    done = armd_launch(str(config), f"data.path={missing}", "--wait")
    assert done.returncode == 1
    assert f"error: {missing}: no such data folder" in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"error: process 0: DataError: {missing}: no such data folder")


@pytest.mark.slow
def test_debugging_trains_here_and_stops_at_the_error(config: Path, tmp_path: Path) -> None:
    failed = armd_launch(str(config), f"data.path={tmp_path / 'nowhere'}", "--debug")
    assert "__call__()" in failed.stdout
    assert failed.stdout.endswith("(Pdb) \n")  # at the end of its input it leaves
    assert failed.returncode == 1
    several = CliRunner().invoke(app, ["local", str(config), "--debug", "--processes", "2"])
    assert several.exit_code == 2


@pytest.mark.slow
def test_it_returns_at_once_and_the_job_can_be_cancelled(config: Path, tmp_path: Path) -> None:
    # Started as shells start background commands, with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = armd_launch(str(config), "training.steps=100000", "--processes", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    assert done.returncode == 0, done.stderr
    (job,) = [line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("job ")]
    run = str(tmp_path / "run")
    time.sleep(1)
    assert "running" in CliRunner().invoke(app, ["status", run]).stdout
    assert "was told to end" in CliRunner().invoke(app, ["cancel", run]).stdout
    deadline = time.monotonic() + 20
    while _alive(int(job)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(int(job))
    assert "lost" in CliRunner().invoke(app, ["status", run]).stdout


def test_bad_settings_start_nothing(config: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["local", str(config), "parallel.tensor=3", "model.num_layers=0"])
    assert isinstance(result.exception, ConfigError)
    assert {"parallel.tensor", "model.num_layers"} <= {problem.path for problem in result.exception.problems}
    assert not (tmp_path / "run").exists()


def test_no_number_of_processes_but_one_that_fits(config: Path) -> None:
    result = CliRunner().invoke(app, ["local", str(config), "parallel.tensor=2", "--processes", "3"])
    assert "does not divide the 3 processes" in str(result.exception)


@pytest.mark.parametrize("verb", ["local", "slurm"])
def test_help_has_an_example(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert f"armd launch {verb} configs/quickstart.yaml" in " ".join(result.stdout.replace("│", " ").split())


def _alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked after is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
