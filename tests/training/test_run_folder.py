"""Whose folder is it: refusals that lose nothing, and what may change between the parts of a run."""

import shutil
from pathlib import Path

import pytest
from ranks import armd, metrics

from armd_dist.checkpoint.folder import damage
from armd_dist.config import load_run
from armd_dist.errors import RunFolderError
from armd_dist.training.run_folder import differences


@pytest.fixture(scope="module")
def finished(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}", "training.stop_at=10")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def refused(*arguments: object) -> str:
    done = armd("train", *arguments)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_other_settings_are_refused(copy: Path, tiny_config: Path) -> None:
    text = refused(tiny_config, f"run.dir={copy}", "training.learning_rate=0.1", "model.num_layers=2")
    assert f"run.dir={copy}: belongs to a run with other settings" in text
    assert "training.learning_rate: 0.01 -> 0.1" in text
    assert "model.num_layers: 3 -> 2" in text
    assert len(metrics(copy)) == 10


@pytest.mark.parametrize("content", ["run: [", "- 1", ""])
def test_damaged_settings_are_told(content: str, copy: Path, tiny_config: Path) -> None:
    (copy / "run.yaml").write_text(content)
    run = load_run(tiny_config, [f"run.dir={copy}"])
    with pytest.raises(RunFolderError) as raised:
        differences(run, copy / "run.yaml")
    assert str(raised.value).startswith(f"{copy / 'run.yaml'}: cannot be read as the settings of a run (")
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    shutil.copyfile(newest / "run.yaml", copy / "run.yaml")  # as the message says
    changed = [line.partition(":")[0] for line in differences(run, copy / "run.yaml")]
    assert changed == ["run.dir", "training.stop_at"]


def test_never_refuses_a_used_folder(copy: Path, tiny_config: Path) -> None:
    assert "holds a run already" in refused(tiny_config, f"run.dir={copy}", "checkpoint.resume=never")


def test_a_checkpoint_may_be_continued_on_purpose(copy: Path, tiny_config: Path, tmp_path: Path) -> None:
    start = [tiny_config, f"run.dir={tmp_path / 'other'}", f"checkpoint.resume={copy}", "training.stop_at=12"]
    text = refused(*start, "model.hidden_size=64")
    assert "is of another model" in text
    assert "model.hidden_size: 32 -> 64" in text
    done = armd("train", *start, "training.learning_rate=0.001")
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path / "other")] == [11, 12]


def test_newer_checkpoints_are_not_overwritten(copy: Path, tiny_config: Path) -> None:
    older = copy / "checkpoints" / "step-00000005"
    assert "would be overwritten" in refused(tiny_config, f"run.dir={copy}", f"checkpoint.resume={older}")


def test_damaged_checkpoint_is_passed_over_and_told(copy: Path, tiny_config: Path) -> None:
    shard = next((copy / "checkpoints" / "step-00000010" / "state").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    done = armd("train", tiny_config, f"run.dir={copy}", "training.stop_at=10")
    assert done.returncode == 0, done.stderr
    assert f"passing over {copy / 'checkpoints' / 'step-00000010'}" in done.stderr
    assert "has changed since it was written" in done.stderr
    assert "step-00000005 (step 5)" in done.stderr
    assert damage(copy / "checkpoints" / "step-00000010") is None, "the run replaces it when it comes there again"


def test_interrupted_checkpoint_does_not_exist(copy: Path, tiny_config: Path) -> None:
    (copy / "checkpoints" / "step-00000010" / "COMPLETE").unlink()
    done = armd("train", tiny_config, f"run.dir={copy}", "training.stop_at=10")
    assert "step-00000005 (step 5)" in done.stderr
    assert damage(copy / "checkpoints" / "step-00000010") is None
    assert [path.name for path in sorted((copy / "checkpoints").iterdir())] == ["step-00000005", "step-00000010"]


def test_finished_run_has_nothing_to_do(copy: Path, tiny_config: Path) -> None:
    done = armd("train", tiny_config, f"run.dir={copy}", "training.stop_at=10")
    assert done.returncode == 0
    assert "nothing to do" in done.stderr


def test_missing_data_is_refused_before_anything_is_written(tiny_config: Path, tmp_path: Path) -> None:
    text = refused(tiny_config, f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'nowhere'}")
    assert f"{tmp_path / 'nowhere'}: no such data folder" in text
    assert not (tmp_path / "run").exists()


def test_data_of_another_tokenizer_is_refused(tiny_config: Path, tmp_path: Path) -> None:
    text = refused(tiny_config, f"run.dir={tmp_path / 'run'}", "model.vocab_size=500")
    assert "model.vocab_size=500" in text
    assert "was made by a tokenizer of 400 tokens" in text
    assert not (tmp_path / "run").exists()


def test_another_dataset_is_refused(copy: Path, tiny_config: Path, dataset: Path) -> None:
    text = refused(tiny_config, f"run.dir={copy}", f"data.path={dataset / 'held_out'}")
    assert "is not the data that this run has trained on" in text
    assert len(metrics(copy)) == 10
