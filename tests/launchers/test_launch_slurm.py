"""`armd launch slurm`, with stand-ins for Slurm's commands."""

import pickle
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
from typer.testing import CliRunner, Result

from armd_dist.cli.launch import app
from armd_dist.config import check_tree
from armd_dist.errors import ConfigError
from armd_dist.run import Run
from launchers.checks import load_job
from launchers.config import load_cluster
from launchers.errors import LaunchError
from launchers.folder import settings
from launchers.job import TrainingJob
from launchers.record import newest
from launchers.slurm import launch_slurm, sbatch_script
from launchers.watch import follow, log_file

ACCEPT = 'env > "$(dirname "$0")/environment"\necho Submitted batch job 4242'


def armd_launch(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["slurm", *arguments])


def test_dry_run_shows_the_script_and_leaves_nothing(
    config: Path, tmp_path: Path, commands: Callable[..., Path]
) -> None:
    commands()  # no sbatch, no srun
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("gpus_per_node: 2\nnodes: 1\nsetup: [module load cuda]\nenvironment: {NCCL_DEBUG: a b}\n")
    flags = "--nodes 2 --time 2-00:00:30 --partition big --account mine --qos high --constraint h100 --cpus-per-task 8"
    result = armd_launch(str(config), "training.global_batch_size=8", "--cluster", str(cluster), *flags.split(),
                         "--mem-gb", "1.5", "--then", "export {run} out", "--dry-run")  # fmt: skip
    assert result.exit_code == 0, result.output
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", result.stdout, re.MULTILINE))
    wanted = {"nodes": "2", "ntasks-per-node": "2", "gpus-per-node": "2", "time": "2881", "partition": "big",
              "account": "mine", "qos": "high", "constraint": "h100", "cpus-per-task": "8", "mem": "1536M",
              "job-name": "armd-run"}  # fmt: skip
    assert wanted.items() <= options.items()
    assert "wckey" not in options
    lines = result.stdout.splitlines()
    assert lines.index("module load cuda") < lines.index("export NCCL_DEBUG='a b'")
    look, srun = [line for line in lines if line.startswith("srun ")]
    assert "does not see" in look
    assert "--kill-on-bad-exit=1" in srun
    assert "--cpus-per-task=8" in srun
    assert "#   job        2 node(s) x 2 = 4 process(es), each with a GPU; at most 2-00:00:30" in lines
    assert "#   then       armd export {run} out" in lines
    assert "#   layout     tensor 1 x pipeline 1 x data 4, ZeRO 0" in lines
    assert "#   training:" in lines
    assert "#     global_batch_size: 8" in lines
    assert not (tmp_path / "run").exists()


def test_what_dry_run_prints_is_a_shell_script(config: Path) -> None:
    command = "eval {checkpoint} --data 'a b' --out {run}/{step}"
    kept = ("checkpoint.every=1", "checkpoint.keep_every=1", "--every", "2", "--at-checkpoints", command)
    result = armd_launch(str(config), "--gpus-per-node", "0", "--dry-run", *kept)
    assert f"#   each       2 steps: armd {command}" in result.stdout.splitlines()
    assert subprocess.run(["bash", "-n"], input=result.stdout, text=True, check=False).returncode == 0
    assert "export CUDA_VISIBLE_DEVICES=" in result.stdout
    assert "gpus-per-node" not in result.stdout.split("# setup")[0]


def test_a_range_of_nodes_counts_its_processes_when_it_starts(tiny_run: Run) -> None:
    script = sbatch_script(tiny_run, load_cluster(None, {"gpus_per_node": 8, "nodes": "2-4", "cpus_per_task": 3}))
    assert {"#SBATCH --nodes=2-4", "#SBATCH --cpus-per-task=24"} <= set(script.splitlines())
    assert "--cpus-per-task=3 --ntasks-per-node=8" in script
    assert "export SLURM_NTASKS=$((SLURM_NNODES * 8))" in script


def test_options_beyond_ours_reach_sbatch(tiny_run: Run) -> None:
    flags = {"sbatch": {"reservation": "friday"}, "srun": ["--mpi=none", "--comment=a b"], "python": "box run python"}
    script = sbatch_script(tiny_run, load_cluster(None, {"gpus_per_node": 1, **flags}))
    assert "#SBATCH --reservation=friday" in script
    (line,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert " --mpi=none '--comment=a b' box run python -P -u -m submitit" in line


def test_bad_settings_are_told_before_submission(config: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    folder = commands(sbatch=ACCEPT)
    result = armd_launch(str(config), "parallel.tensor=3", "--gpus-per-node", "8", "--time", "2:00")
    assert isinstance(result.exception, ConfigError)
    assert "cluster.time=2:00" in str(result.exception)
    assert not (folder / "environment").exists()
    assert not (tmp_path / "run").exists()


def test_without_sbatch_the_user_is_told(config: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands()
    result = armd_launch(str(config), "--gpus-per-node", "1")
    assert isinstance(result.exception, LaunchError)
    assert "no sbatch command" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_what_sbatch_refuses_is_told(config: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands(sbatch="echo 'sbatch: error: invalid partition specified: nope' >&2; exit 1")
    result = armd_launch(str(config), "--gpus-per-node", "1", "--partition", "nope")
    assert isinstance(result.exception, LaunchError)
    assert str(result.exception) == "sbatch refused the job: invalid partition specified: nope"
    assert not (tmp_path / "run").exists()


def test_submission_tells_how_to_follow_and_cancel(config: Path, tmp_path: Path, commands: Callable[..., Path]) -> None:
    commands(sbatch=ACCEPT)
    result = armd_launch(str(config), "--gpus-per-node", "2")
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "run" / "launch").iterdir()
    assert "job 4242: 2 process(es)" in result.stdout
    assert f"{folder}/4242_RANK_log.err" in result.stdout
    for verb in ("logs -f", "status", "cancel"):
        assert f"armd launch {verb} {tmp_path / 'run'}" in result.stdout
    assert newest(tmp_path / "run").id == "4242"
    assert (folder / "4242_submission.sh").read_text().startswith("#!/bin/bash")
    assert (folder / "4242_submitted.pkl").exists()


def test_a_job_does_not_inherit_the_job_around_it(
    tiny_run: Run, commands: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = commands(sbatch=ACCEPT)
    around = {"SLURM_NTASKS": "7", "MASTER_PORT": "1", "SLURM_CONF": "/etc/mine", "SBATCH_ACCOUNT": "a"}
    for name, value in around.items():
        monkeypatch.setenv(name, value)
    launch_slurm(tiny_run, load_cluster(None, {"gpus_per_node": 1}))
    seen = dict(line.split("=", 1) for line in (folder / "environment").read_text().splitlines() if "=" in line)
    assert {name for name in around if name in seen} == {"SLURM_CONF", "SBATCH_ACCOUNT"}


def test_the_job_pickles_and_means_the_same_run(tiny_run: Run) -> None:
    job = pickle.loads(cloudpickle.dumps(TrainingJob(settings(tiny_run))))
    assert check_tree(job.tree) == tiny_run


def test_a_job_that_slurm_no_longer_knows_has_failed(config: Path, commands: Callable[..., Path]) -> None:
    commands(sbatch=ACCEPT, squeue="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("launchers.watch.RESULTS_S", 0.0)
        result = armd_launch(str(config), "--gpus-per-node", "1", "--wait")
    assert result.exit_code == 1
    assert "error: process 0: left no result" in result.stderr


def test_the_first_to_fail_is_shown_first(config: Path, commands: Callable[..., Path]) -> None:
    commands(sbatch=ACCEPT, squeue="exit 0")
    ready = load_job(config, [], None, {"gpus_per_node": 2})
    job = launch_slurm(ready.runs[0], ready.cluster)
    log_file(job, 1).write_text("out of cheese\n")
    for rank, error in ((1, "armd_dist.errors.TrainingError: no cheese"), (0, "RuntimeError: connection closed")):
        job.task(rank).paths.result_pickle.write_bytes(pickle.dumps(("error", f"Traceback\n  ...\n{error}\n")))
        time.sleep(0.01)
    failures = follow(job, print)
    assert [(failure.rank, failure.reason) for failure in failures] == [
        (1, "TrainingError: no cheese"),
        (0, "RuntimeError: connection closed"),
    ]
    assert failures[0].tail() == "out of cheese"
