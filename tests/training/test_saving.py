"""Two processes that save beside their work, on sound, slow, full and read-only disks."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import remount, small_disk
from fake_checkpoints import fake_checkpoint
from ranks import TIMEOUT_SECONDS, environment

from armd_dist.checkpoint.folder import complete_checkpoints, damage, partial_folder, read_training_state
from armd_dist.checkpoint.retention import leftovers
from armd_dist.checkpoint.tensors import read_alone

HERE, TESTS = Path(__file__).parent, Path(__file__).parents[1]
KINDS = ("sound", "slow", "waits", "killed", "patient", "hangs", "verified")


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "tokenizer.model").write_text("a tokenizer")
    return folder


def run_jobs(jobs: dict[str, Path], out: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """What each process of each job saw."""
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
    assert not any("Traceback" in file.read_text() for file in out.glob("*.err"))
    read = {kind: [(out / f"{kind}.{rank}").read_text().splitlines() for rank in range(2)] for kind in jobs}
    return {kind: [[json.loads(line) for line in lines] for lines in ranks] for kind, ranks in read.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saving")


@pytest.fixture(scope="module")
def seen(base: Path) -> dict[str, list[list[dict[str, Any]]]]:
    return run_jobs({kind: make(base / kind) for kind in KINDS}, base)


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
        assert pauses(seen["slow"][rank])[0] < 0.5 * min(pauses(seen["waits"][rank]))
        assert min(pauses(seen["waits"][rank])) > 1.0


def test_killed_while_it_writes(base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    assert all({"ended": "well"} not in lines for lines in seen["killed"])
    assert [path.name for path in complete_checkpoints(base / "killed")] == ["step-00000003"]
    assert damage(base / "killed" / "checkpoints" / "step-00000003") is None
    assert leftovers(base / "killed") == [partial_folder(base / "killed", 6)]


def test_the_watch_leaves_a_slow_write_alone(base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    """Rank 0 waits for longer than the time-out, and at the end again."""
    assert [lines[-1] for lines in seen["patient"]] == [{"ended": "well"}] * 2
    assert pauses(seen["patient"][0])[1] > 3.6
    assert [(base / f"patient.{rank}.err").read_text() for rank in range(2)] == ["", ""]


def test_the_watch_names_who_hangs_in_a_write(base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    for rank in range(2):
        said = (base / f"hangs.{rank}.err").read_text()
        assert re.search(r"^error: rank 1 \(.+\) hangs, for \d s .*, writing its part of a checkpoint", said, re.M), (
            said
        )
        assert {"finished": 2} in seen["hangs"][rank]
        assert {"finished": 3} not in seen["hangs"][rank]


def test_each_process_reads_its_share_of_the_files(base: Path, seen: dict[str, list[list[dict[str, Any]]]]) -> None:
    main, other = seen["verified"]
    file = base / "verified" / "checkpoints" / "step-00000001" / "state" / "__1_0.distcp"
    assert {"sound": None} in main
    assert {"flipped": f"{file} has changed since it was written (read by rank 1)"} in main
    assert {"heard": "the answer"} in other


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, list[list[dict[str, Any]]]]]]:
    """(run folder, what each process saw) of jobs on a disk with room for two checkpoints, and on a read-only one."""
    base = tmp_path_factory.mktemp("disks")
    with small_disk(base / "full", "3m") as full, small_disk(base / "read_only", "3m") as read_only:
        (full / "ballast").write_bytes(bytes(1_000_000))
        jobs = {"full": full / "run", "read_only": read_only / "run"}
        for folder in jobs.values():
            make(folder)
        shutil.copytree(fake_checkpoint(base / "other", 7), read_only / "run" / "checkpoints" / "step-00000007")
        remount(read_only, "ro")
        seen = run_jobs(jobs, base)
        yield {kind: (folder, seen[kind]) for kind, folder in jobs.items()}


def test_a_full_disk_is_told_by_all_and_costs_no_checkpoint(
    failed: dict[str, tuple[Path, list[list[dict[str, Any]]]]],
) -> None:
    """Training goes on until the failure is known, and then stops everywhere at the same step."""
    run_dir, seen = failed["full"]
    error = seen[0][-1]["ended"]
    assert seen[1][-1]["ended"] == error
    assert f"{run_dir}/checkpoints/step-00000003: could not be written" in error
    assert f"{partial_folder(run_dir, 3)}/state/__" in error
    assert "No space left on device" in error
    assert [path.name for path in complete_checkpoints(run_dir)] == ["step-00000001"]
    assert damage(complete_checkpoints(run_dir)[0]) is None
    assert leftovers(run_dir) == []
    steps = [[line["finished"] for line in lines if "finished" in line] for lines in seen]
    assert steps[0] == steps[1]
    assert 2 in steps[0]
    assert len(steps[0]) < 300


def test_a_read_only_folder_is_told_by_all(failed: dict[str, tuple[Path, list[list[dict[str, Any]]]]]) -> None:
    run_dir, seen = failed["read_only"]
    for lines in seen:
        assert f"rank 0: {partial_folder(run_dir, 1)}: Read-only file system" in lines[-1]["ended"]
    assert [damage(path) for path in complete_checkpoints(run_dir)] == [None]
