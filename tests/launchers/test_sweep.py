"""`armd launch slurm --sweep`: many runs from one config, as one array."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import CPU_JOB, Cluster, losses
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError
from launchers.record import newest, runs_in
from launchers.sweep import load_sweep, parse

ARMD = (sys.executable, "-m", "armd_dist")


def test_values_are_split_at_commas_outside_of_brackets() -> None:
    assert parse(["training.seed=0, 1", "orders.strided_streams=[1,2],[1]"]) == {
        "training.seed": ["0", "1"],
        "orders.strided_streams": ["[1,2]", "[1]"],
    }


@pytest.mark.parametrize(
    ("sweeps", "complaint"),
    [
        (["training.seed"], "--sweep=training.seed: is not of the form a.b=c,d"),
        (["training.seed=0,,1"], "is not of the form"),
        (["training.seed=0,0"], "has a value twice"),
        (["training.seed=0", "training.seed=1"], "is named twice"),
        (["run.dir=a,b"], "is what tells the runs of a sweep apart"),
    ],
)
def test_a_bad_sweep_is_told(sweeps: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(sweeps)
    assert complaint in str(caught.value)


def test_every_combination_is_a_run_in_a_folder_of_its_own(config: Path, tmp_path: Path) -> None:
    sweeps = ["training.seed=0,1", "training.learning_rate=1e-3,2e-3"]
    runs = load_sweep(config, ["training.steps=5"], sweeps, [1])
    assert {(run.training.seed, run.training.learning_rate, run.run.dir) for run in runs} == {
        (seed, float(rate), f"{tmp_path}/run/seed-{seed}_learning_rate-{rate}")
        for seed in (0, 1)
        for rate in ("1e-3", "2e-3")
    }
    assert all(run.training.steps == 5 for run in runs)
    with pytest.raises(ConfigError, match="has two runs in"):
        load_sweep(config, [], ["data.path=a/b,ab"], [None])


def test_a_problem_of_all_runs_is_told_once(config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(config, ["model.hidden_size=15"], ["training.seed=0,1", "training.micro_batch_size=1,0,-1"], [None])
    found = [problem.path for problem in caught.value.problems]
    assert len(found) == len(set(map(str, caught.value.problems)))
    assert found.count("training.micro_batch_size") == 2  # 0 and -1


def test_what_follows_one_job_takes_no_sweep(config: Path, commands: Callable[..., Path]) -> None:
    commands()
    asked = ["slurm", str(config), "--gpus-per-node", "0"]
    for more, complaint in ((["--sweep", "training.seed=0,1", "--wait"], "--wait"), (["--limit", "2"], "--limit")):
        result = CliRunner().invoke(app, [*asked, *more])
        assert result.exit_code == 2
        assert complaint in result.stderr


@pytest.mark.slurm
def test_four_runs_two_at_a_time(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    most, folder = 0, tmp_path / "run"
    said = slurm.ask(*ARMD, "launch", "slurm", config, *CPU_JOB, "--sweep", "training.seed=0,1,2,3", "--limit", 2)
    (array,) = set(re.findall(r"^  (\d+)_\d  ", said, re.MULTILINE))

    def ended() -> bool:
        nonlocal most
        states = slurm.ask("squeue", "-h", "-r", "-t", "all", "-j", array, "-o", "%T").split()
        most = max(most, states.count("RUNNING"))
        return states == ["COMPLETED"] * 4

    slurm.until("all four have ended", ended)
    assert most == 2
    assert runs_in(folder) == [folder / f"seed-{seed}" for seed in range(4)]
    assert len({losses(run)[3] for run in runs_in(folder)}) == 4
    assert newest(folder / "seed-3").id == f"{array}_3"
    shown = slurm.ask(*ARMD, "launch", "status", folder)
    assert (shown.count("finished"), shown.count("3 of 3")) == (4, 4)
