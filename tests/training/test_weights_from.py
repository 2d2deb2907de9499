"""A new run that begins with the weights of another one, and the average that it takes where there is one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import armd, metrics
from torch import Tensor
from typer.testing import CliRunner

from armd_dist.checkpoint.tensors import load_model, read_alone
from armd_dist.cli.main import app
from armd_dist.config import load_run
from armd_dist.errors import CheckpointError, ConfigError
from armd_dist.export.open import open_model
from armd_dist.export.write import export_checkpoint
from armd_dist.training.run_folder import find_start
from armd_dist.training.weights_from import find_weights
from data_pipeline.manifest import load_manifest

DECAY = 0.6


@pytest.fixture(scope="module")
def averaged(trained: Path, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The tiny run, with an average switched on after step 10, up to step 15, every step saved; and what it said."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    shutil.copytree(trained, folder)
    for step in (15, 20):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    settings = [f"training.ema_decay={DECAY}", "training.stop_at=15", "checkpoint.every=1"]
    done = armd("train", tiny_config, f"run.dir={folder}", *settings)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def weights(checkpoint: Path, ema: bool = False) -> dict[str, Tensor]:
    return dict(load_model(checkpoint, ema)[0].named_parameters())


def test_an_average_that_is_switched_on_starts_from_the_weights(averaged: tuple[Path, str]) -> None:
    folder, said = averaged
    assert f"training.ema_decay={DECAY}: the average starts from the checkpoint's weights, which has none" in said
    checkpoints = folder / "checkpoints"
    wanted = weights(checkpoints / "step-00000010")
    for step in range(11, 16):
        decay, now = min(DECAY, (1 + step) / (10 + step)), weights(checkpoints / f"step-{step:08d}")
        wanted = {name: decay * value + (1 - decay) * now[name] for name, value in wanted.items()}
    torch.testing.assert_close(weights(folder, ema=True), wanted, rtol=0, atol=5e-7)
    assert max((wanted[name] - value).abs().max().item() for name, value in weights(folder).items()) > 1e-3


def test_evaluation_generation_and_export_take_the_average(
    averaged: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    folder, out = averaged[0], tmp_path / "export"
    measure = ["--data", str(dataset / "held_out"), "--streams", "1", "--windows", "4", "--out", str(tmp_path)]
    found: list[Any] = []
    for which in ([], ["--ema"]):
        done = CliRunner().invoke(app, ["eval", str(folder), *which, *measure])
        assert done.exit_code == 0, done.output
        found.append(json.loads((tmp_path / "evaluation.json").read_text()))
    assert [content["ema"] for content in found] == [False, True]
    assert found[0]["perplexity"] != found[1]["perplexity"]
    done = CliRunner().invoke(app, ["generate", str(folder), "--ema", "--max-new-tokens", "2"])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["export", str(folder), str(out), "--ema"])
    assert done.exit_code == 0, done.output
    opened = open_model(out)
    torch.testing.assert_close(dict(opened.network.named_parameters()), weights(folder, ema=True), rtol=0, atol=0)
    assert opened.ema
    card = (out / "README.md").read_text()
    assert f"| weights | their exponential moving average over training (decay {DECAY}), not those of the" in card
    done = CliRunner().invoke(app, ["export", str(folder), str(out)])
    assert "exists and is not this export of this checkpoint" in str(done.exception)
    done = CliRunner().invoke(app, ["generate", str(out), "--ema"])
    assert f"--ema: {out} is an export" in str(done.exception)


def test_without_an_average_that_is_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"--ema: .*step-00000020 holds no average of the weights \(it was saved"):
        export_checkpoint(trained, tmp_path / "out", ema=True)


def test_fine_tuning(averaged: tuple[Path, str], tiny_config: Path, tmp_path: Path) -> None:
    """Under another layout and precision, with another number of two-stream layers: they have the same weights."""
    source, folder = tmp_path / "source", tmp_path / "run"
    shutil.copytree(averaged[0], source)
    command = ["train", tiny_config, f"run.dir={folder}", f"checkpoint.weights_from={source}", "training.seed=5"]
    layout = ["parallel.zero_stage=3", "training.precision=bf16", "model.two_stream_layers=1", "training.ema_decay=0.5"]
    command += ["training.learning_rate=1e-9", *layout]
    done = armd(*command, "training.stop_at=1", processes=2)
    assert done.returncode == 0, done.stderr
    step = source / "checkpoints" / "step-00000015"
    assert "settings of the model that differ from theirs:\n  model.two_stream_layers: 2 -> 1\n" in done.stderr
    assert f"beginning with the average of the weights of {step} (step 15), and with a fresh optimizer" in done.stderr
    assert [(line["step"], line["consumed_samples"]) for line in metrics(folder)] == [(1, 8)]
    wanted, found = weights(step, ema=True), weights(folder)
    for here, there in (("two_stream.0.", "two_stream.0."), ("upper.0.", "two_stream.1."), ("upper.1.", "upper.0.")):
        for name in [name for name in found if name.startswith(here)]:
            torch.testing.assert_close(found[name], wanted[name.replace(here, there)], rtol=0, atol=1e-7)
    torch.testing.assert_close(found["tokens.weight"], wanted["tokens.weight"], rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(folder, ema=True), found, rtol=0, atol=1e-7)
    moments = {f"exp_avg/{name}": torch.empty_like(value) for name, value in found.items() if "norm" in name}
    read_alone(folder / "checkpoints" / "step-00000001", moments)
    clipped, first = 0.5, 0.1  # training.clip_grad; of 1 - beta_1 in the first step
    assert 0 < max(value.abs().max().item() for value in moments.values()) <= clipped * first

    shutil.rmtree(source)
    done = armd(*command, "training.stop_at=2", "training.ema_decay=null", "parallel.zero_stage=1")
    assert done.returncode == 0, done.stderr
    assert f"continuing from {folder / 'checkpoints' / 'step-00000001'} (step 1)" in done.stderr
    assert "training.ema_decay=null: the checkpoint's average of the weights is dropped" in done.stderr
    assert [line["step"] for line in metrics(folder)] == [1, 2]
    with pytest.raises(CheckpointError, match="holds no average"):
        weights(folder, ema=True)


def test_other_weights_are_not_the_same_run(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    run = load_run(tiny_config, [f"run.dir={folder}", f"checkpoint.weights_from={trained}"])
    with pytest.raises(Exception, match=f"belongs to a run with .*\n  checkpoint.weights_from: None -> {trained}"):
        find_start(run, "", "")


def refused(tiny_config: Path, given: Path, tokenizer: str, *overrides: str) -> str:
    run = load_run(tiny_config, [f"checkpoint.weights_from={given}", *overrides])
    with pytest.raises((ConfigError, CheckpointError)) as error:
        find_weights(run, tokenizer)
    return str(error.value)


def test_what_does_not_fit_is_told_at_once(trained: Path, tiny_config: Path) -> None:
    newest = trained / "checkpoints" / "step-00000020"
    changes = ["model.hidden_size=64", "model.num_layers=4", "model.ffn_hidden_size=128", "model.hidden_dropout=0.1"]
    assert refused(tiny_config, trained, "other", *changes).splitlines() == [
        f"model.hidden_size=64: the weights of {newest} are of 32; use model.hidden_size=32",
        f"model.num_layers=4: the weights of {newest} are of 3; use model.num_layers=3",
        f"checkpoint.weights_from={trained}: its weights know the tokens of another tokenizer than that of the data; "
        f"build the data with armd data build --tokenizer {newest / 'tokenizer.model'}",
    ]


def test_a_damaged_checkpoint_is_told(trained: Path, tiny_config: Path, dataset: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(trained / "checkpoints" / "step-00000020", tmp_path / "step-00000020")
    tokenizer = load_manifest(dataset / "train").tokenizer_sha256
    run = load_run(tiny_config, [f"checkpoint.weights_from={checkpoint}"])
    assert find_weights(run, tokenizer)[0] == checkpoint
    shard = next((checkpoint / "state").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    text = refused(tiny_config, checkpoint, tokenizer)
    assert text == (
        f"checkpoint.weights_from={checkpoint}: {shard} has changed since it was written; "
        "give another checkpoint of its run"
    )
    text = refused(tiny_config, tmp_path / "nowhere", tokenizer)
    assert text.startswith(f"checkpoint.weights_from={tmp_path / 'nowhere'}: {tmp_path / 'nowhere'}: no such folder; ")
