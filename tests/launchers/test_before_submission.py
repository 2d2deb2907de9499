"""What the login node says against a job before it is submitted."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import Cluster
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError
from launchers import shared
from launchers.checks import load_job
from launchers.clusters import cluster_file
from launchers.config import ClusterConfig, load_cluster
from launchers.shared import shared_folder_check
from launchers.site import site_problems

CONFIGS = Path(__file__).parents[2] / "configs"
PARTITIONS = """\
echo 'PartitionName=gpu AllowGroups=ALL Default=YES MaxNodes=UNLIMITED MaxTime=2-00:00:00 TotalNodes=3 State=UP'
echo 'PartitionName=cpu AllowGroups=ALL Default=NO MaxNodes=1 MaxTime=UNLIMITED TotalNodes=2 State=UP'"""
NODES = """\
case "$*" in
*gpu*) echo 'gpu:h100:8(S:0-1)|96|1000000|h100,ib'; echo 'gpu:h100:8(S:0-1)|96+|1000000|h100,ib'
       echo 'gpu:a100:4(S:0),gpu:mig:2|64|500000|a100';;
*) echo '(null)|32|64000+|(null)'; echo '(null)|32|64000+|(null)';;
esac"""


@pytest.fixture
def site(commands: Callable[..., Path]) -> Path:
    return commands(scontrol=PARTITIONS, sinfo=NODES)


def complaints(**flags: object) -> list[str]:
    return [str(problem) for problem in site_problems(ClusterConfig.model_validate(flags))]


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"gpus_per_node": 8, "nodes": 2, "cpus_per_task": 12, "mem_gb": 900, "time": "2-00:00:00"}, []),
        ({"gpus_per_node": 6, "nodes": 3}, []),
        ({"gpus_per_node": 0, "partition": "cpu", "time": "90-00:00:00"}, []),
        (
            {"gpus_per_node": 1, "partition": "gpus"},
            ["cluster.partition=gpus: there is no gpus; use one of gpu (default), cpu"],
        ),
        (
            {"gpus_per_node": 16, "time": "2-00:00:01"},
            [
                "cluster.gpus_per_node=16: the nodes of partition gpu have at most 8 GPU(s); use at most 8",
                "cluster.time=2-00:00:01: is longer than partition gpu allows; use at most 2-00:00:00",
            ],
        ),
        ({"gpus_per_node": 8, "nodes": 3}, ["cluster.nodes=3: partition gpu has at most 2 node(s) for such a job"]),
        (
            {"gpus_per_node": 4, "constraint": "a100", "nodes": 2, "cpus_per_task": 17},
            [
                "cluster.cpus_per_task=17: the nodes of partition gpu have at most 16 core(s) for each of 4 process",
                "cluster.nodes=2: partition gpu has at most 1 node(s) for such a job",
            ],
        ),
        ({"gpus_per_node": 1, "constraint": "v100"}, ["cluster.constraint=v100: is a feature of no node of part"]),
        ({"gpus_per_node": 1, "constraint": "h100&ib"}, []),
        (
            {"gpus_per_node": 0, "partition": "cpu", "mem_gb": 64, "nodes": 2},
            ["cluster.mem_gb=64.0: the nodes of partition cpu have at most 62.5 GB", "cluster.nodes=2: partition cpu"],
        ),
        ({"gpus_per_node": 0, "partition": "cpu", "nodes": 2, "qos": "big"}, []),  # it may lift the limit of nodes
        ({"gpus_per_node": 0, "partition": "gpu,cpu", "nodes": 3}, []),  # one of both suits
    ],
)
def test_what_the_partition_cannot_give(flags: dict[str, object], found: list[str], site: Path) -> None:
    said = complaints(**flags)
    assert len(said) == len(found)
    for line, start in zip(said, found, strict=True):
        assert line.startswith(start)


def test_without_an_answer_of_slurm_nothing_is_held_against_a_job(commands: Callable[..., Path]) -> None:
    commands()
    assert complaints(gpus_per_node=99) == []
    commands(scontrol="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert complaints(gpus_per_node=99) == []


def test_all_problems_come_at_once(config: Path, site: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(config, ["model.hidden_size=0"], None, {"gpus_per_node": 9, "time": "3-00:00:00"})
    paths = {problem.path for problem in caught.value.problems}
    assert {"cluster.gpus_per_node", "cluster.time", "model.hidden_size", "training.global_batch_size"} <= paths


def test_a_run_that_cannot_fit_is_refused_but_by_force(commands: Callable[..., Path]) -> None:
    commands()
    asked = ("slurm", str(CONFIGS / "armd_7b.yaml"), "--nodes", "2", "--gpus-per-node", "8", "--gpu-memory-gb", "24")
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, ConfigError)
    (problem,) = refused.exception.problems
    assert (problem.path, problem.value) == ("cluster.gpu_memory_gb", "24")
    assert "would fit: " in problem.remedy
    assert "no sbatch command" in str(CliRunner().invoke(app, [*asked, "--force"]).exception)
    page = CliRunner().invoke(app, [*asked, "--dry-run"]).stdout
    assert "21.60 GB usable of 24 GB: IT DOES NOT FIT" in page
    change = problem.remedy.split("would fit: ")[1].split(" or ")[0].split("; ")[0]
    fits = CliRunner().invoke(app, [*asked, *change.split(), "--dry-run"])
    assert ": it fits" in fits.stdout


def test_a_plan_without_the_memory_says_so(commands: Callable[..., Path]) -> None:
    commands()
    asked = ("slurm", str(CONFIGS / "armd_7b.yaml"), "--nodes", "2", "--gpus-per-node", "8", "--dry-run")
    assert "whether that fits is not known: give --gpu-memory-gb" in CliRunner().invoke(app, asked).stdout


def test_clusters_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert cluster_file("example") == CONFIGS / "cluster" / "example.yaml"
    own = tmp_path / "armd-dist" / "cluster"
    own.mkdir(parents=True)
    for name in ("example", "mine"):
        (own / f"{name}.yaml").write_text("gpus_per_node: 3\n")
        assert load_cluster(cluster_file(name), {}).gpus_per_node == 3  # the user's own comes first
    assert cluster_file("here.yaml") == Path("here.yaml")
    with pytest.raises(ConfigError) as caught:
        cluster_file("fir")
    assert f"write {own}/fir.yaml" in str(caught.value)
    assert "one of: example, mine" in str(caught.value)


def test_a_node_that_does_not_see_the_folder_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Callable[..., Path]
) -> None:
    monkeypatch.setattr(shared, "PATIENCE_S", 1)
    tools = {name: str(shutil.which(name)) for name in ("bash", "sh", "seq", "sleep")}
    commands(srun='shift 2; SLURMD_NODENAME=n2; export SLURMD_NODENAME; exec "$@"')
    for name, tool in tools.items():
        (tmp_path / "bin" / name).symlink_to(tool)
    folder = tmp_path / "a job's"
    script = "\n".join([*shared_folder_check(folder, nodes=2), "echo trains"])
    shell = [tools["bash"], "-c", script]
    blind = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (blind.returncode, blind.stdout) == (1, "")
    assert blind.stderr.startswith(f"error: node n2 does not see {folder}: run.dir and the folder of submission")
    folder.mkdir()
    assert subprocess.run(shell, capture_output=True, text=True, check=False).stdout == "trains\n"
    assert shared_folder_check(folder, nodes=1) == []


@pytest.mark.slurm
def test_the_page_of_a_large_job_is_a_script_for_sbatch(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    asked = ["slurm", str(CONFIGS / "armd_7b.yaml"), "--partition", "gpus", "--gpus-per-node", "8", "--dry-run"]
    page = CliRunner().invoke(app, [*asked, "--nodes", "16", "--gpu-memory-gb", "80"])
    assert page.exit_code == 0, page.exception
    assert "16 node(s) x 8 = 128 process(es), each with a GPU" in page.stdout
    assert ": it fits" in page.stdout
    (tmp_path / "job.sh").write_text(page.stdout)
    # Nodes that are down fail --test-only, so it is queued for real.
    job = slurm.ask("sbatch", "--hold", tmp_path / "job.sh").split()[-1]
    queued = slurm.job(job)
    slurm.ask("scancel", job)
    assert (queued["NumNodes"], queued["NumTasks"], queued["TresPerNode"]) == ("16-16", "128", "gres:gpu:8")
    refused = CliRunner().invoke(app, [*asked, "--nodes", "17", "--time", "8-00:00:00"]).exception
    assert isinstance(refused, ConfigError)
    assert {"cluster.nodes", "cluster.time"} <= {problem.path for problem in refused.problems}
