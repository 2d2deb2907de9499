"""--clean deletes what the quickstart made, and nothing else."""

from pathlib import Path

import pytest

from armd_dist.errors import RunFolderError
from armd_dist.quickstart.story import _make_ours, _remove


def test_own_folders_go(tmp_path: Path) -> None:
    run, data = tmp_path / "run", tmp_path / "data" / "tokens"
    run.mkdir()
    (run / "run.yaml").touch()
    _make_ours(data.parent)
    data.mkdir()
    _remove(run, data)
    assert not run.exists()
    assert not data.parent.exists()


def test_data_made_by_others_stays(tmp_path: Path) -> None:
    data = tmp_path / "data" / "tokens"
    data.mkdir(parents=True)
    (data.parent / "tokenizer.model").touch()
    _make_ours(data.parent)
    _remove(tmp_path / "run", data)
    assert data.exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    with pytest.raises(RunFolderError, match="is not the folder of a run"):
        _remove(tmp_path / "thesis", tmp_path / "data" / "tokens")
    assert (tmp_path / "thesis").exists()
