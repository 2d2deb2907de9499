"""`armd launch slurm --at-checkpoints`: commands after every n-th checkpoint."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import saved
from submitit.core.utils import DelayedSubmission
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError
from launchers.at_checkpoints import Submitter
from launchers.checkpoints import AtCheckpoints
from launchers.config import ClusterConfig, load_cluster
from launchers.followup import CommandJob
from launchers.record import Record
from launchers.sweep import load_sweep, sweep_script

EVAL = "eval {checkpoint} --data d --out {run}/eval/{step}"
# Counts the jobs it takes; none while a file `full` lies beside it.
SBATCH = """\
folder="$(dirname "$0")"
[ ! -e "$folder/full" ] || { echo 'sbatch: error: queue is full' >&2; exit 1; }
read -r number < "$folder/number" || number=0
echo $((number + 1)) > "$folder/number"
[ ! -e "$folder/ending" ] || kill -TERM $PPID
echo Submitted batch job $((number + 1))"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """With checkpoints of steps 10, 20 and 25, and one of step 30 that was interrupted."""
    for step in (10, 20, 25, 30):
        saved(tmp_path / "run", step)
    (tmp_path / "run" / "checkpoints" / "step-00000030" / "COMPLETE").unlink()
    return tmp_path / "run"


def submitter(run_dir: Path, name: str = "first", *commands: str, every: int = 10) -> Submitter:
    """Of a job of the run whose folder has this name."""
    folder = run_dir / "launch" / name
    folder.mkdir(parents=True, exist_ok=True)
    cluster = load_cluster(None, {"gpus_per_node": 4, "nodes": 2})
    return Submitter(run_dir, folder, every, cluster, commands or (EVAL,))


def work(folder: Path, job: int) -> list[str]:
    """The words of armd that a job was submitted to run."""
    command = DelayedSubmission.load(folder / f"{job}_submitted.pkl").function
    assert isinstance(command, CommandJob)
    return command.arguments


@pytest.mark.parametrize(
    ("every", "command", "changes", "complaint"),
    [
        (
            5,
            EVAL,
            ["checkpoint.every=2", "checkpoint.keep_every=2"],
            "--every=5: is not a multiple of checkpoint.every=2",
        ),
        (2, EVAL, ["checkpoint.every=1"], "checkpoint.keep_every=None: may delete checkpoints of --every 2"),
        (3, EVAL, ["checkpoint.every=1", "checkpoint.keep_every=2"], "use checkpoint.keep_every=3, or --every 4"),
        (4, EVAL, ["checkpoint.every=1", "checkpoint.keep_every=2"], "--every=4: names no step of a run that ends at"),
        (2, "eval {run} --data d", [], "does not name {checkpoint}"),
        (2, "eval {checkpoint} --data d --out {checkpoint}/eval", [], "names a place inside of the checkpoint"),
        (2, "eval {checkpoint} --data d --out {run}/eval", [], "to the same place; put {step} into it"),
        (2, "export {checkpoint} {run}/export", [], "to the same place; put {step} into it"),
        (2, "evall {checkpoint}", [], "--at-checkpoints=evall {checkpoint}: No such command 'evall'"),
    ],
)
def test_what_could_never_work_is_refused_at_once(
    every: int, command: str, changes: list[str], complaint: str, config: Path, commands: Callable[..., Path]
) -> None:
    commands()
    keeps = changes or ["checkpoint.every=1", "checkpoint.keep_every=1"]
    asked = ["slurm", str(config), "--gpus-per-node", "0", "--every", str(every), "--at-checkpoints", command, *keeps]
    refused = CliRunner().invoke(app, asked).exception
    assert isinstance(refused, ConfigError)
    (problem,) = refused.problems
    assert complaint in str(problem)


def test_one_option_needs_the_other(config: Path, commands: Callable[..., Path]) -> None:
    commands()
    for option, value, missing in (
        ("--every", "5", "--at-checkpoints COMMAND"),
        ("--at-checkpoints", EVAL, "--every N"),
    ):
        refused = CliRunner().invoke(app, ["slurm", str(config), "--gpus-per-node", "0", option, value])
        assert refused.exit_code == 2
        assert f"{option} needs {missing}" in " ".join(refused.stderr.replace("│", " ").split())


def test_each_due_checkpoint_comes_once_over_starts_and_jobs(run_dir: Path, commands: Callable[..., Path]) -> None:
    commands(sbatch=SBATCH)
    first = submitter(run_dir)
    assert first.look() is None
    places = [run_dir / "checkpoints" / f"step-000000{step}" for step in (10, 20)]
    for job, (step, place) in enumerate(zip((10, 20), places, strict=True), start=1):
        assert work(first.folder, job) == ["eval", str(place), "--data", "d", "--out", f"{run_dir}/eval/{step}"]
        script = (first.folder / f"{job}_submission.sh").read_text()
        assert f"#SBATCH --job-name=armd-run-eval-{step}\n" in script
        assert {"#SBATCH --nodes=1", "#SBATCH --gpus-per-node=1", "#SBATCH --time=240"} <= set(script.splitlines())
    saved(run_dir, 40)
    other = submitter(run_dir, "later", EVAL, "checkpoint verify {checkpoint}", every=20)
    assert other.due() == [
        (20, places[1], "checkpoint verify {checkpoint}"),
        (40, run_dir / "checkpoints" / "step-00000040", EVAL),
        (40, run_dir / "checkpoints" / "step-00000040", "checkpoint verify {checkpoint}"),
    ]
    assert other.look() is None
    assert (other.due(), first.due()) == ([], [])


def test_a_refusal_is_told_once_and_tried_again(
    run_dir: Path,
    commands: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, pauses = commands(sbatch=SBATCH), list[float]()
    (folder / "full").touch()

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            (folder / "full").unlink()
        if len(pauses) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("launchers.at_checkpoints.time.sleep", pause)
    with pytest.raises(SystemExit):
        submitter(run_dir).watch()
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "--at-checkpoints: sbatch refused the job: queue is full; training is not concerned; "
        "tried again every 10 minutes",
        f"checkpoint of step 10: job 1 is armd {EVAL}",
        f"checkpoint of step 20: job 2 is armd {EVAL}",
    ]
    assert pauses == [600, 600, 20]


def test_no_sbatch_on_the_node_is_told(
    run_dir: Path, commands: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    commands()
    submitter(run_dir).last()
    assert "--at-checkpoints: sbatch: No such file or directory; training is not concerned" in capfd.readouterr().err


def test_what_slurm_has_taken_is_noted_before_the_process_ends(run_dir: Path, commands: Callable[..., Path]) -> None:
    (commands(sbatch=SBATCH) / "ending").touch()
    other = threading.Event()
    thread = threading.Thread(target=other.wait)  # which takes the signal, where the main thread holds it back
    thread.start()
    with pytest.raises(SystemExit):
        submitter(run_dir).watch()
    other.set()
    thread.join()
    assert [step for step, _, _ in submitter(run_dir).due()] == [20]


def test_the_batch_script_looks_beside_training_and_once_behind_it(config: Path, tmp_path: Path) -> None:
    said, programs = tmp_path / "said", {}
    programs["python"] = f"""\
shift 2
for last; do :; done
echo "$1 $last" >> {said}
[ $last != last ] || printf '%s\\n' "$@" > {tmp_path}/words
[ $last != watch ] || {{ trap "echo over >> {said}; exit" TERM; for _ in {{1..600}}; do sleep 0.05; done; }}"""
    programs["srun"] = f"until grep -q watch {said}; do sleep 0.05; done\nexit 7"  # training that crashes
    for name, lines in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    cluster = load_cluster(None, {"gpus_per_node": 0, "python": f"{tmp_path}/python", "setup": ["export A='b c'"]})
    at = AtCheckpoints(20, (EVAL, "export {checkpoint} 'a b/{step}'"))
    place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "1"}
    runs = load_sweep(config, [], ["training.seed=0,1"], [1])
    script = sweep_script(runs, cluster, None, at)
    done = subprocess.run(["bash", "-c", script], env=place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 7, done.stderr
    assert said.read_text().splitlines() == [
        "launchers.at_checkpoints watch",
        "launchers.requeue 7",
        "over",
        "launchers.at_checkpoints last",
    ]
    module, run_dir, _, every, settings, *commands, last = (tmp_path / "words").read_text().splitlines()
    assert (module, run_dir, every, last) == ("launchers.at_checkpoints", runs[1].run.dir, "20", "last")
    assert ClusterConfig.model_validate_json(settings) == cluster
    assert tuple(commands) == at.commands


def test_status_shows_what_goes_on_and_the_newest(run_dir: Path, commands: Callable[..., Path], tmp_path: Path) -> None:
    folder = commands(sbatch=SBATCH, scancel='echo "$1" >> "$(dirname "$0")/ended"')
    first = submitter(run_dir)
    for step in (40, 50):
        saved(run_dir, step)
    first.look()
    place = {"host": "n1", "submitted": time.time() - 60}
    Record("9", "slurm", str(first.folder), 8, **place).write(run_dir)
    commands(
        squeue="echo '9|RUNNING|None|0|x|'; echo '1|COMPLETED|None|0|x|'; echo '2|FAILED|None|0|x|'\n"
        "echo '3|PENDING|Priority|0|N/A|'; echo '4|COMPLETED|None|0|x|'"
    )
    shown = CliRunner().invoke(app, ["status", str(run_dir)]).stdout.splitlines()
    assert [line.split("eval")[0].split() + line.split()[-3:-1] for line in shown if line.strip().startswith("at ")][
        :3
    ] == [
        ["at", "20", "2", "failed"],
        ["at", "40", "3", "waiting"],
        ["at", "50", "4", "finished"],
    ]
    assert not any("at 10 " in line for line in shown)
    CliRunner().invoke(app, ["cancel", str(run_dir)])
    assert (folder / "ended").read_text().split() == ["9", "3"]
