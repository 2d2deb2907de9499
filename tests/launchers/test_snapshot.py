"""A job runs the code that was there when it was submitted."""

import shutil
import subprocess
from pathlib import Path

import pytest
from cluster_jobs import CPU_JOB, Cluster, checkout_in, losses

from launchers import snapshot


def copied(folder: Path) -> Path:
    """A checkout of its own, committed, with a change on top."""
    checkout = checkout_in(folder)
    git(checkout, "init", "-q")
    git(checkout, "add", ".")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "as copied")
    with open(checkout / "launchers" / "errors.py", "a") as module:
        module.write("\nCHANGED = True\n")
    return checkout


def git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_it_holds_the_code_the_commit_and_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, folder = copied(tmp_path), tmp_path / "job"
    monkeypatch.setattr(snapshot, "_source", lambda package: checkout / package)
    code = snapshot.take_snapshot(folder)
    sources = {
        path.relative_to(checkout) for package in snapshot.PACKAGES for path in (checkout / package).rglob("*.*")
    }
    assert {path.relative_to(code) for path in code.rglob("*.*")} == sources
    assert (code / "launchers" / "errors.py").read_text().endswith("CHANGED = True\n")
    assert (folder / "commit.txt").read_text() == git(checkout, "rev-parse", "HEAD") + " M launchers/errors.py\n"
    git(checkout, "stash", "-q")
    git(checkout, "apply", str(folder / "changes.diff"))
    assert (checkout / "launchers" / "errors.py").read_text().endswith("CHANGED = True\n")


def test_code_that_is_no_checkout_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = copied(tmp_path)
    shutil.rmtree(checkout / ".git")
    monkeypatch.setattr(snapshot, "_source", lambda package: checkout / package)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    snapshot.take_snapshot(tmp_path / "job")
    assert (tmp_path / "job" / "commit.txt").read_text().startswith("unknown: fatal: not a git repository")


@pytest.mark.slurm
def test_a_queued_job_does_not_see_what_becomes_of_the_checkout(slurm: Cluster, config: Path, tmp_path: Path) -> None:
    checkout = copied(tmp_path)
    slurm.ask("scontrol", "update", "partitionname=low", "state=down")
    try:
        job = slurm.launch(config, *CPU_JOB, cwd=checkout, PYTHONPATH=str(checkout))
        assert slurm.state(job) == "PENDING"
        for package in snapshot.PACKAGES:
            (checkout / package / "__init__.py").write_text("raise SystemExit('the checkout has been edited')\n")
    finally:
        slurm.ask("scontrol", "update", "partitionname=low", "state=up")
    assert slurm.end(job) == "COMPLETED"
    assert set(losses(tmp_path / "run")) == {1, 2, 3}
