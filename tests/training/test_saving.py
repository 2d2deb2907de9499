"""Two processes that save beside their work, on sound, slow, full and read-only disks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import remount, small_disk
from ranks import TIMEOUT_SECONDS, environment

from armd_dist.checkpoint.folder import complete_checkpoints, damage, partial_folder, read_training_state
from armd_dist.checkpoint.retention import leftovers
from armd_dist.checkpoint.tensors import read_alone

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[1]
KINDS = ("sound", "slow", "waits", "killed")


def run_jobs(jobs: dict[str, Path], out: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """What each process of each job saw."""
    for folder in jobs.values():
        if not folder.exists():
            folder.mkdir()
            (folder / "tokenizer.model").write_text("a tokenizer")
    paths = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    names = json.dumps({kind: str(folder) for kind, folder in jobs.items()})
    done = subprocess.run(
        [sys.executable, str(HERE / "saving_ranks.py"), names, str(out)],
        env={**environment(), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    read = {kind: [(out / f"{kind}.{rank}").read_text().splitlines() for rank in range(2)] for kind in jobs}
    return {kind: [[json.loads(line) for line in lines] for lines in ranks] for kind, ranks in read.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saving")


@pytest.fixture(scope="module")
def seen(base: Path) -> dict[str, list[list[dict[str, Any]]]]:
    return run_jobs({kind: base / kind for kind in KINDS}, base)


def pauses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["paused"] for line in lines if "paused" in line]


@pytest.mark.parametrize("kind", ["sound", "slow", "waits"])
def test_what_was_saved_is_the_step(kind: str, base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    """1 goes when 3 is there; 3 is a multiple of keep_every; the last one is waited for."""
    assert [lines[-1] for lines in seen[kind]] == [{"ended": "well"}] * 2
    found = complete_checkpoints(base / kind)
    assert [path.name for path in found] == ["step-00000003", "step-00000020"]
    for step, folder in zip((3, 20), found, strict=True):
        assert damage(folder) is None
        state = read_training_state(folder)
        assert (state.step, state.topology["data"]) == (step, 2)
        read_alone(folder, into := {"weight/a": torch.zeros(6, 50_000)})
        assert (into["weight/a"] == step).all(), "the values of another step"
        sizes = [(folder / "state" / f"__{rank}_0.distcp").stat().st_size for rank in range(2)]
        assert sum(sizes) < 1.02 * 4 * 6 * 50_000, "something was written twice"
        assert max(sizes) < 1.02 * min(sizes), "one process writes more than its share"
    assert leftovers(base / kind) == []


def test_training_goes_on_while_a_slow_disk_writes(seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    for rank in range(2):
        first, second, third = pauses(seen["slow"][rank])
        assert max(first, third) < 0.3
        assert second > 0.3, "one save at a time: the second waits for the first"
        assert min(pauses(seen["waits"][rank])) > 0.5


def test_killed_while_it_writes(base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    assert all({"ended": "well"} not in lines for lines in seen["killed"])
    assert [path.name for path in complete_checkpoints(base / "killed")] == ["step-00000003"]
    assert damage(base / "killed" / "checkpoints" / "step-00000003") is None
    assert leftovers(base / "killed") == [partial_folder(base / "killed", 6)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB: room for two checkpoints of 1.2 MB, not for three."""
    with small_disk(tmp_path / "disk", "3m") as folder:
        yield folder


def test_a_full_disk_is_told_by_all_and_costs_no_checkpoint(disk: Path, tmp_path: Path) -> None:
    """Beside something else that lies there; training goes on until the failure is known."""
    run_dir = disk / "run"
    (disk / "ballast").write_bytes(bytes(1_000_000))
    seen = run_jobs({"full": run_dir}, tmp_path)["full"]
    error = seen[0][-1]["ended"]
    assert seen[1][-1]["ended"] == error
    assert f"{run_dir}/checkpoints/step-00000003: could not be written" in error
    assert f"{partial_folder(run_dir, 3)}/state/__" in error
    assert "No space left on device" in error
    assert [path.name for path in complete_checkpoints(run_dir)] == ["step-00000001"]
    assert damage(complete_checkpoints(run_dir)[0]) is None
    assert leftovers(run_dir) == []
    steps = [[line["finished"] for line in lines if "finished" in line] for lines in seen]
    assert steps[0] == steps[1], "all stop at the same step"
    assert 2 in steps[0]
    assert len(steps[0]) < 30


def test_a_read_only_folder_is_told_by_all(disk: Path, tmp_path: Path) -> None:
    run_jobs({"sound": disk / "run"}, tmp_path)
    before = complete_checkpoints(disk / "run")
    remount(disk, "ro")
    (tmp_path / "again").mkdir()
    seen = run_jobs({"sound": disk / "run"}, tmp_path / "again")["sound"]
    for lines in seen:
        assert f"rank 0: {partial_folder(disk / 'run', 1)}: Read-only file system" in lines[-1]["ended"]
    assert complete_checkpoints(disk / "run") == before
    assert [damage(path) for path in before] == [None, None]
