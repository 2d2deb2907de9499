"""The code of a job: a copy of what this Python imports, made when the job is submitted."""

import shutil
import subprocess
from importlib import import_module
from pathlib import Path

PACKAGES = ("armd_dist", "launchers", "data_pipeline")
CODE, COMMIT, DIFF = "code", "commit.txt", "changes.diff"


def take_snapshot(folder: Path) -> Path:
    """Copies our packages into folder/code and returns it.

    Beside it commit.txt names the commit and the files that differ from it, changes.diff says how; where the code is
    no git checkout, or git cannot tell, commit.txt says so.
    """
    sources = [_source(name) for name in PACKAGES]
    for source in sources:
        shutil.copytree(source, folder / CODE / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    root = sources[0].parent
    try:
        commit, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--short", "--", *PACKAGES)
        (folder / DIFF).write_bytes(_git(root, "diff", "HEAD", "--binary", "--", *PACKAGES))
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", None) or str(error).encode()
        commit, changed = b"unknown: " + why.strip() + b"\n", b""
    (folder / COMMIT).write_bytes(commit + changed)
    return folder / CODE


def _source(package: str) -> Path:
    # By a module in it: the package itself may also stand for a folder of its name elsewhere on the path.
    return Path(str(import_module(f"{package}.errors").__file__)).resolve().parent


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout
