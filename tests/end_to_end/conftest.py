"""One quickstart for all end-to-end tests, in a folder with nothing but the files it needs."""

import shutil

import pytest
from quickstarts import ROOT, Quickstart


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    done = Quickstart(folder, "").make("quickstart")
    assert done.returncode == 0, done.stdout + done.stderr
    return Quickstart(folder, done.stdout)
