"""`armd launch slurm --then`: commands that start once training has ended well."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import CPU_JOB, Cluster
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError
from launchers.config import load_cluster
from launchers.errors import LaunchError
from launchers.followup import CommandJob, arguments_of, small
from launchers.record import after, newest

ARMD = (sys.executable, "-m", "armd_dist")
# Takes the scripts as they come, the first as job 1.
COUNTING = """\
folder="$(dirname "$0")"
read -r number < "$folder/number" || number=0
number=$((number + 1))
echo $number > "$folder/number"
while read -r line; do case "$line" in "#SBATCH"*) echo "$line";; esac; done < "$1" > "$folder/job-$number"
[ $number -lt "${FULL_AT:-9}" ] || { echo 'sbatch: error: queue is full' >&2; exit 1; }
echo Submitted batch job $number"""


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("evall {run}", "No such command 'evall'"),
        ("eval {run}", "Missing option '--data'"),
        ("export {run} out --fast", "No such option: --fast"),
        ("data", "lacks the name of a command"),
        ("export 'a", "No closing quotation"),
        ("", "it would do nothing"),
    ],
)
def test_a_command_that_armd_would_refuse_is_told_now(
    command: str, complaint: str, config: Path, commands: Callable[..., Path]
) -> None:
    commands()
    asked = ["slurm", str(config), "--gpus-per-node", "0", "--then", command, "training.steps=0"]
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, ConfigError)
    problem, other = refused.problems
    assert complaint in problem.rule
    assert (problem.path, other.path) == ("--then", "training.steps")


def test_the_folder_of_the_run_takes_its_place() -> None:
    assert arguments_of("export {run} '{run}/an export'", run=Path("runs/a b")) == [
        "export",
        "runs/a b",
        "runs/a b/an export",
    ]


def test_a_command_gets_one_process_and_its_share() -> None:
    flags = {"nodes": "2-4", "gpus_per_node": 8, "mem_gb": 800, "time": "3-00:00:00", "partition": "gpu"}
    one = small(load_cluster(None, flags))
    assert (one.world_sizes, one.gpus_per_node, one.mem_gb, one.time, one.partition) == ([1], 1, 100, "4:00:00", "gpu")
    assert small(load_cluster(None, {**flags, "time": "1:00:00"})).time == "1:00:00"


def test_each_waits_for_the_one_before(config: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    folder, run_dir = (
        commands(sbatch=COUNTING, squeue="exit 0", scancel='echo "$1" >> "$(dirname "$0")/ended"'),
        tmp_path / "run",
    )
    then = ("--then", "eval {run} --data d", "--then", "export {run} out")
    submitted = CliRunner().invoke(app, ["slurm", str(config), "--gpus-per-node", "0", *then])
    assert submitted.exit_code == 0, submitted.exception
    assert "  then    2  armd eval {run} --data d, log " in submitted.stdout
    assert [record.id for record in after(run_dir, newest(run_dir))] == ["2", "3"]
    assert newest(run_dir).id == "1"
    for number in (2, 3):
        script = (folder / f"job-{number}").read_text()
        assert f"#SBATCH --dependency=afterok:{number - 1}\n" in script
        assert "#SBATCH --kill-on-invalid-dep=yes\n" in script
    assert "dependency" not in (folder / "job-1").read_text()
    commands(
        squeue="echo '1|COMPLETED|None|0|x|'; echo '2|FAILED|NonZeroExitCode|0|x|'; echo '3|PENDING|Dependency|0|N/A|'"
    )
    shown = CliRunner().invoke(app, ["status", str(run_dir)]).stdout
    assert [line.split()[-3:-1] for line in shown.splitlines() if " then " in line] == [
        ["2", "failed"],
        ["3", "waiting"],
    ]
    CliRunner().invoke(app, ["cancel", str(run_dir)])
    assert (folder / "ended").read_text() == "3\n"


def test_a_refused_command_does_not_hide_that_training_is_submitted(
    config: Path, tmp_path: Path, commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands(sbatch=COUNTING)
    monkeypatch.setenv("FULL_AT", "2")
    asked = ["slurm", str(config), "--gpus-per-node", "0", "--then", "export {run} out"]
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, LaunchError)
    assert "job 1 is submitted, but not what comes after it, 'export {run} out': sbatch refused" in str(refused)
    assert newest(tmp_path / "run").id == "1"


def test_a_command_that_fails_fails_its_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LaunchError, match="ended with exit code 2"):
        CommandJob(["config", str(tmp_path / "none.yaml")])()
    assert "none.yaml: is not a file" in capfd.readouterr().err


@pytest.mark.slurm
def test_training_evaluation_and_export_in_a_chain(slurm: Cluster, config: Path, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    then = (f"eval {{run}} --data {dataset} --windows 2 --out {{run}}/eval", "export {run} {run}/export")
    slurm.ask(*ARMD, "launch", "slurm", config, *CPU_JOB, "--then", then[0], "--then", then[1])
    evaluation, export = [record.id for record in after(run, newest(run))]
    assert slurm.job(export)["Dependency"].startswith(f"afterok:{evaluation}")
    # A requeue of the first job must not let the others go, nor end them.
    slurm.until("training runs", lambda: slurm.state(newest(run).id) == "RUNNING")
    slurm.ask("scontrol", "requeue", newest(run).id)
    assert slurm.end(export) == "COMPLETED"
    times = [slurm.job(job) for job in (newest(run).id, evaluation, export)]
    assert times[0]["Restarts"] == "1"
    assert times[0]["EndTime"] <= times[1]["StartTime"] <= times[1]["EndTime"] <= times[2]["StartTime"]
    assert json.loads((run / "eval" / "evaluation.json").read_text())
    assert (run / "export" / "config.json").exists()
    assert slurm.ask(*ARMD, "launch", "status", run).count("finished") == 3


@pytest.mark.slurm
def test_what_comes_after_a_failure_is_cancelled(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = (config, f"data.path={tmp_path / 'nowhere'}", *CPU_JOB, "--then", "export {run} {run}/export")
    slurm.ask(*ARMD, "launch", "slurm", *asked)
    (export,) = after(run, newest(run))
    assert slurm.end(export.id) == "CANCELLED"
    assert slurm.state(newest(run).id) == "FAILED"
    assert "nowhere: no such data folder" in slurm.ask(*ARMD, "launch", "status", run)
