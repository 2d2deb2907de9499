"""What a job asks of a cluster: read, merged and checked before anything is submitted."""

from pathlib import Path

import pytest

from armd_dist.errors import ConfigError
from launchers.checks import load_job
from launchers.config import load_cluster
from launchers.walltime import minutes_of

EXAMPLE = Path(__file__).parents[2] / "configs" / "cluster" / "example.yaml"


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("2-00:00:00", 2880), ("2-00:00", 2880), ("2-12", 3600), ("12:00:00", 720), ("36:30:00", 2190), ("0:00:01", 1)],
)
def test_time_limits_are_read(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    "text", ["", "90", "2:00", "1-24:00:00", "00:60:00", "1:2:3", "0-00:00:00", "a day", "-1:00:00"]
)
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|minutes"):
        minutes_of(text)


def test_the_example_loads_and_flags_replace_it() -> None:
    assert load_cluster(EXAMPLE, {}).world_size == 8
    changed = load_cluster(EXAMPLE, {"nodes": 4, "time": "0:30:00", "setup": ["module load cuda"]})
    assert (changed.world_size, changed.time, changed.setup) == (32, "0:30:00", ["module load cuda"])


def test_a_cpu_job_has_tasks_instead_of_gpus() -> None:
    assert load_cluster(None, {"gpus_per_node": 0, "nodes": 2, "tasks_per_node": 3}).world_size == 6


def test_numbers_become_values_of_variables(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("gpus_per_node: 1\nenvironment:\n  NCCL_IB_TIMEOUT: 22\n")
    assert load_cluster(file, {}).environment == {"NCCL_IB_TIMEOUT": "22"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nodes: 2", "cluster.gpus_per_node=: is missing; give --gpus-per-node N"),
        ("gpus_per_node: 8\ntime: 12:00:00", "is a number, not a time; quote it"),
        ("gpus_per_node: 8\ntasks_per_node: 4", "tasks_per_node=4 with gpus_per_node=8"),
        ("gpus_per_node: 8\nnodes: 4-2", "from 4 to 2 nodes; give the smaller number first"),
        ("gpus_per_node: 8\nnodes: 0-2", "cluster.min_nodes=0: input should be greater than or equal to 1"),
        ("gpus_per_node: 8\nnodes: some", "cluster.nodes=some"),
        ("gpus_per_node: 8\ntime: 0:02:00", "signal_seconds=120 leaves no time to train in time=0:02:00; ask for more"),
        ("gpus_per_node: 8\npartitions: gpu", "cluster.partitions=gpu: is not a setting"),
        ("gpus_per_node: 8\nenvironment: {A-B: x}", "'A-B' is not a name of an environment variable"),
        ("gpus_per_node: [", "cannot be read"),
        ("- gpus_per_node", "holds no mapping"),
    ],
)
def test_a_bad_file_is_told(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_cluster(file, {})
    assert complaint in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        load_cluster(tmp_path / "none.yaml", {"gpus_per_node": 1})


def test_all_problems_of_run_and_cluster_come_at_once(config: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_job(config, ["model.hidden_size=0"], None, {"gpus_per_node": 8, "nodes": 0, "time": "soon"})
    paths = {problem.path for problem in caught.value.problems}
    assert {"model.hidden_size", "cluster.nodes", "cluster.time"} <= paths


def test_the_world_size_is_checked_before_submission(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.global_batch_size=4: is not a multiple"):
        load_job(config, [], None, {"gpus_per_node": 8, "nodes": 2})


def test_every_number_of_nodes_that_may_come_is_checked(config: Path) -> None:
    asked = {"gpus_per_node": 0, "nodes": "1-2"}
    job = load_job(config, [], None, asked)
    assert (job.cluster.world_sizes, job.runs[0].training.global_batch_size) == ([1, 2], 4)
    with pytest.raises(ConfigError, match=r"training\.global_batch_size=4: is not a multiple .* 6"):
        load_job(config, [], None, {**asked, "nodes": "2-4"})
