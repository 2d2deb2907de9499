"""Training on a dataset that is damaged or foreign ends with one clear error, and saves nothing."""

import json
import shutil
from pathlib import Path

import pytest
from ranks import armd

from data_pipeline.shard_index import walk_tar

TAR = "tokens-000000.tar"


@pytest.fixture
def folder(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the training split to damage."""
    return Path(shutil.copytree(dataset / "train", tmp_path / "train"))


@pytest.mark.parametrize("processes", [None, 2])
def test_a_flipped_byte_stops_training(folder: Path, tiny_config: Path, tmp_path: Path, processes: int | None) -> None:
    data = bytearray((folder / TAR).read_bytes())
    data[int(walk_tar(folder / TAR)[0][0]) + 100] ^= 1  # one bit of one token, which stays in the vocabulary
    (folder / TAR).write_bytes(data)
    done = armd("train", tiny_config, f"run.dir={tmp_path / 'run'}", f"data.path={folder}", processes=processes)
    assert done.returncode != 0
    assert f"error: {folder / TAR}: checksum " in done.stderr
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_token_out_of_range_and_a_foreign_vocabulary(folder: Path, tiny_config: Path, tmp_path: Path) -> None:
    here = (f"run.dir={tmp_path / 'run'}", f"data.path={folder}")
    done = armd("train", tiny_config, *here, "model.vocab_size=300")
    assert done.returncode == 2
    assert "error: model.vocab_size=300: " in done.stderr
    assert "was made by a tokenizer of 400 tokens; use model.vocab_size=400" in done.stderr
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "vocab_size": 300}))
    done = armd("train", tiny_config, *here, "model.vocab_size=300")
    assert done.returncode == 2
    assert f"error: {folder / TAR}: holds token id 3" in done.stderr
    assert "the vocabulary has 300; the shard is damaged" in done.stderr
