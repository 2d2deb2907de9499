"""Whose folder is it: refusals that lose nothing, and what may change between the parts of a run."""

import json
import shutil
from pathlib import Path

import pytest
from disks import remount, small_disk
from ranks import armd, metrics

from armd_dist.checkpoint.folder import complete_checkpoints, damage, read_training_state
from armd_dist.config import load_run
from armd_dist.errors import RunFolderError
from armd_dist.training.run_folder import claim, differences, find_start


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
    assert not (tmp_path / "other").exists()
    done = armd("train", *start, "training.learning_rate=0.001")
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path / "other")] == [11, 12]
    assert "would be overwritten" in refused(*start, "training.learning_rate=0.002")
    again = armd("train", *start, "training.learning_rate=0.001", "training.stop_at=13")
    assert again.returncode == 0, again.stderr
    assert "step-00000012 (step 12)" in again.stderr, "the same command goes on with its own checkpoints"
    assert [line["step"] for line in metrics(tmp_path / "other")] == [11, 12, 13]


def test_another_batch_size_goes_on_with_the_next_sample(copy: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    start = [tiny_config, f"run.dir={folder}", f"checkpoint.resume={copy}", "training.global_batch_size=4"]
    for stop in (12, 13):
        done = armd("train", *start, "data.ledger=true", f"training.stop_at={stop}")
        assert done.returncode == 0, done.stderr
    assert [line["consumed_samples"] for line in metrics(folder)] == [84, 88, 92], "after 10 steps of 8"
    proof = armd("data", "ledger", folder)
    assert proof.returncode == 0, proof.stdout
    lines = (folder / "ledger" / "attempt-000001" / "rank-00000.jsonl").read_text().splitlines()
    assert [json.loads(line)["first"] for line in lines] == [80, 84]


def test_newer_checkpoints_are_not_overwritten(copy: Path, tiny_config: Path) -> None:
    older = copy / "checkpoints" / "step-00000005"
    assert "would be overwritten" in refused(tiny_config, f"run.dir={copy}", f"checkpoint.resume={older}")


BREAKING = {
    "truncated": ("state/__0_0.distcp", lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes instead of"),
    "flipped": ("state/.metadata", lambda file: file.write_bytes(b"\0" + file.read_bytes()[1:]), "has changed since"),
    "deleted": ("state.json", lambda file: file.unlink(), "is missing"),
    "unsealed": ("COMPLETE", lambda file: file.unlink(), "is missing: the checkpoint was interrupted or is damaged"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_auto_takes_the_newest_sound_one_and_says_why(copy: Path, tiny_config: Path, name: str) -> None:
    path, breaking, message = BREAKING[name]
    older, newer = complete_checkpoints(copy)
    run, state = load_run(tiny_config, [f"run.dir={copy}"]), read_training_state(older)
    breaking(newer / path)
    checkpoint, notes = find_start(run, state.manifest_hash, state.tokenizer_sha256)
    assert checkpoint == older
    assert notes[0].startswith(f"passing over {newer}: {newer / path} ")
    assert message in notes[0]
    assert notes[-1] == f"continuing from {older} (step 5)"
    breaking(older / path)
    with pytest.raises(RunFolderError, match="no sound checkpoint is left") as error:
        find_start(run, state.manifest_hash, state.tokenizer_sha256)
    assert f"passing over {older}: {older / path} " in str(error.value)


def test_what_differs_is_told(copy: Path, tiny_config: Path) -> None:
    newest = complete_checkpoints(copy)[-1]
    state = read_training_state(newest)

    def notes(*overrides: str) -> list[str]:
        run = load_run(tiny_config, list(overrides))
        return find_start(run, state.manifest_hash, state.tokenizer_sha256)[1]

    assert notes(f"run.dir={copy}") == [f"continuing from {newest} (step 10)"]
    told, _ = notes(f"run.dir={copy}", "parallel.zero_stage=1", "checkpoint.keep=2")
    assert told.splitlines()[1:] == ["  checkpoint.keep: 10 -> 2", "  parallel.zero_stage: 0 -> 1"]
    told, _ = notes(f"run.dir={copy}2", f"checkpoint.resume={copy}", "training.learning_rate=0.001")
    assert told.splitlines()[1:] == ["  training.learning_rate: 0.01 -> 0.001"]


def test_what_a_killed_process_left_is_cleared(copy: Path, tiny_config: Path) -> None:
    for kind in ("partial", "replaced", "deleted"):
        shutil.copytree(copy / "checkpoints" / "step-00000005", copy / "checkpoints" / f".step-00000007.{kind}")
    assert [path.name for path in complete_checkpoints(copy)] == ["step-00000005", "step-00000010"]
    claim(load_run(tiny_config, [f"run.dir={copy}"]), copy / "checkpoints" / "step-00000005" / "tokenizer.model")
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["step-00000005", "step-00000010"]


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


def test_a_read_only_run_folder_is_told(copy: Path, tiny_config: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        shutil.copytree(copy, disk / "run")
        remount(disk, "ro")
        text = refused(tiny_config, f"run.dir={disk / 'run'}")
    assert f"run.dir={disk / 'run'}: cannot be used ({disk / 'run' / 'lock'}: Read-only" in text


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
