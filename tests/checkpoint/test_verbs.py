"""`armd checkpoint`: list, verify, diff, prune."""

import shutil
from pathlib import Path

import pytest
from fake_checkpoints import fake_checkpoint
from ranks import armd
from typer.testing import CliRunner, Result

from armd_dist.checkpoint.folder import COMPLETE, complete_checkpoints
from armd_dist.cli.main import app


def ask(*words: object) -> Result:
    return CliRunner().invoke(app, ["checkpoint", *map(str, words)], env={"COLUMNS": "200"})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints 10, 20, 30 and 40; 30 has lost a file, 40 has a flipped byte; 50 is being written."""
    folders = [fake_checkpoint(tmp_path / "run", step) for step in (10, 20, 30, 40)]
    (folders[2] / "run.yaml").unlink()
    (folders[3] / "run.yaml").write_text("run: []\n")
    (tmp_path / "run" / "checkpoints" / ".step-00000050.partial").mkdir()
    return tmp_path / "run"


def test_list_says_which_one_is_taken_and_what_is_wrong(run: Path) -> None:
    lines = ask("list", run).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [
        *(f"step-000000{step}" for step in (10, 20, 30, 40)),
        ".step-00000050.partial",
    ]
    assert "tensor 2 x data 2" in lines[1]
    assert lines[1].rstrip().endswith("complete")
    assert f"{run / 'checkpoints' / 'step-00000030' / 'run.yaml'} is missing" in " ".join(lines).replace("\n", "")
    assert [line.split()[0] for line in lines if "auto takes it" in line] == ["step-00000040"]
    (run / "checkpoints" / "step-00000040" / COMPLETE).unlink()
    lines = ask("list", run).stdout.splitlines()
    assert [line.split()[0] for line in lines if "auto takes it" in line] == ["step-00000020"]


def test_verify_names_every_damaged_file(run: Path) -> None:
    found = ask("verify", run)
    assert found.exit_code == 1
    assert f"error: {run / 'checkpoints' / 'step-00000030' / 'run.yaml'} is missing" in found.output
    assert f"error: {run / 'checkpoints' / 'step-00000040' / 'run.yaml'} has changed since" in found.output
    assert f"{run / 'checkpoints' / 'step-00000020'}: sound" in found.output
    assert ask("verify", run / "checkpoints" / "step-00000020").exit_code == 0
    assert ask("verify", run / "checkpoints" / "step-00000040").exit_code == 1


def test_prune_deletes_what_dry_run_said(run: Path) -> None:
    """30 is damaged: it neither counts nor goes."""
    said = ask("prune", run, "--keep", 1, "--every", 20, "--dry-run")
    assert f"would delete {run / 'checkpoints' / 'step-00000010'} (" in said.stdout
    assert len(complete_checkpoints(run)) == 4
    assert "deleted" in ask("prune", run, "--keep", 1, "--every", 20).stdout
    assert [path.name[-2:] for path in complete_checkpoints(run)] == ["20", "30", "40"]
    assert "0 checkpoint(s)" in ask("prune", run, "--keep", 2).stdout


def test_a_folder_without_checkpoints_is_told(tmp_path: Path) -> None:
    for words in (["list", tmp_path], ["verify", tmp_path], ["prune", tmp_path, "--keep", 1]):
        done = armd("checkpoint", *words)
        assert done.returncode == 2
        assert f"error: {tmp_path}: holds no checkpoint; give a run folder" in done.stderr
        assert "Traceback" not in done.stderr


def test_diff_of_a_real_run(trained: Path, tmp_path: Path) -> None:
    first, newest = complete_checkpoints(trained)[0], complete_checkpoints(trained)[-1]
    text = ask("diff", first, trained, "--top", 4).stdout
    assert f"A: {first}\nB: {newest}\nsettings: the same\nstate: \n" in text
    assert "  step: 5 -> 20" in text
    assert "  phase: progressive -> strided" in text
    rows = [line.split() for line in text.splitlines() if line.split()[0].startswith(("weight/", "exp_avg"))]
    assert len(rows) == 4
    shares = [float(row[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True)
    shutil.copytree(first, tmp_path / "step-00000005")
    changed = tmp_path / "step-00000005" / "run.yaml"
    changed.write_text(changed.read_text().replace("seed: 0", "seed: 1"))
    text = ask("diff", first, changed.parent).stdout
    assert "  training.seed: 0 -> 1" in text
    assert "tensors: the same, to the last bit" in text
