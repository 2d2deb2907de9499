"""`armd launch parts`: one command for many parts, as an array."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_jobs import Cluster
from typer.testing import CliRunner

from armd_dist.cli.launch import app
from armd_dist.errors import ConfigError
from data_pipeline.manifest import load_manifest
from launchers.record import newest, runs_in

ARMD = (sys.executable, "-m", "armd_dist")
BUILD = ("data", "build", "--input", "a", "--tokenizer", "b", "--out", "c", "--part")


def refusal(*command: str, parts: int = 2) -> str:
    asked = ["parts", "--parts", str(parts), "--folder", "none", "--", *command]
    error = CliRunner().invoke(app, asked).exception
    assert isinstance(error, ConfigError)
    return str(error)


def test_a_command_for_parts_is_read_before_it_is_submitted(commands: Callable[..., Path]) -> None:
    commands()
    assert "COMMAND=data build --part 1/2: Missing option" in refusal("data", "build", "--part", "{part}/2")
    assert "does the same for every part" in refusal(*BUILD, "1/2")
    assert "No such command 'built'" in refusal("data", "built", "{part}")


@pytest.mark.slurm
def test_parts_of_a_dataset_are_built_on_the_cluster(slurm: Cluster, dataset: Path, tmp_path: Path) -> None:
    whole, folder = dataset.parents[1], tmp_path / "build"
    lines = (whole / "pages.jsonl").read_text().splitlines(keepends=True)
    for name, some in (("a", lines[:20]), ("b", lines[20:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(some))
    build = ("--tokenizer", whole / "tokenizer.model", "--out", tmp_path / "parts", "--part", "{part}/2")
    resources = ("--cpus", 1, "--time", "0:10:00", "--limit", 1)
    command = ("data", "build", "--input", f"{tmp_path}/*.jsonl", *build)
    slurm.ask(*ARMD, "launch", "parts", "--parts", 2, "--folder", folder, *resources, "--", *command)
    assert runs_in(folder) == [folder / "part-1", folder / "part-2"]
    assert [slurm.end(newest(part).id) for part in runs_in(folder)] == ["COMPLETED"] * 2
    slurm.ask(*ARMD, "data", "merge", tmp_path / "parts", "--out", tmp_path / "merged")
    assert load_manifest(tmp_path / "merged" / "train").tokens == load_manifest(dataset).tokens
    assert slurm.ask(*ARMD, "launch", "status", folder).count("finished") == 2
