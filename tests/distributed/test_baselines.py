"""The denoiser trains on every layout alike, with dropout and z-loss, and says what it cannot do."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from ranks import armd, metrics

from armd_dist.parallel.dropout import Dropout

DENOISER = [
    "model.network=denoiser",
    "orders.block_length=8",
    "orders.strided_from=null",
    "model.hidden_dropout=0.1",
    "training.z_loss=1e-3",
    "training.steps=8",
    "checkpoint.every=4",
]


@pytest.fixture(scope="module")
def denoiser(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}", *DENOISER)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("layout", [["parallel.tensor=2"], ["parallel.zero_stage=1"]], ids=["tensor_2", "data_2"])
def test_layouts_agree_with_one_process(layout: list[str], denoiser: Path, tiny_config: Path, tmp_path: Path) -> None:
    """Dropout too: the micro-batches are the same samples wherever they are computed."""
    done = armd("train", tiny_config, f"run.dir={tmp_path / 'run'}", *DENOISER, *layout, processes=2)
    assert done.returncode == 0, done.stderr
    for mine, reference in zip(metrics(tmp_path / "run"), metrics(denoiser), strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-5)
    assert metrics(denoiser)[0]["phase"] == "masked_diffusion"


def test_dropout_is_the_same_again_after_a_resume(denoiser: Path, tiny_config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(denoiser, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000008")
    done = armd("train", tiny_config, f"run.dir={folder}", *DENOISER)
    assert done.returncode == 0, done.stderr
    assert "step-00000004 (step 4)" in done.stderr
    assert [line["loss"] for line in metrics(folder)] == [line["loss"] for line in metrics(denoiser)]


def test_dropout_refuses_another_micro_batch(denoiser: Path, tiny_config: Path) -> None:
    done = armd("train", tiny_config, f"run.dir={denoiser}", *DENOISER, "training.micro_batch_size=4")
    assert done.returncode == 2
    assert "training.micro_batch_size" in done.stderr


def test_every_micro_batch_draws_a_dropout_of_its_own() -> None:
    """From the seed and its first sample alone: the state of torch's generator is what dropout draws from."""
    states = [
        dropout_state(seed, sample, noise) for seed, sample, noise in ((0, 0, 1), (0, 0, 2), (0, 8, 1), (1, 0, 1))
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert not torch.equal(states[0], states[3])


def dropout_state(seed: int, sample: int, noise: int) -> torch.Tensor:
    torch.manual_seed(noise)
    Dropout(seed, None).begin(sample)
    return torch.get_rng_state()


def test_dropout_and_z_loss_change_the_run(denoiser: Path, tiny_config: Path, tmp_path: Path) -> None:
    for number, without in enumerate(("model.hidden_dropout=0", "training.z_loss=0")):
        folder = tmp_path / str(number)
        done = armd("train", tiny_config, f"run.dir={folder}", *DENOISER, without, "training.stop_at=1")
        assert done.returncode == 0, done.stderr
        assert metrics(folder)[0]["grad_norm"] != pytest.approx(metrics(denoiser)[0]["grad_norm"], rel=1e-4)


def test_its_bound_is_evaluated(denoiser: Path, dataset: Path, tmp_path: Path) -> None:
    done = armd("eval", denoiser, "--data", dataset / "held_out", "--random-orders", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation.json").read_text())["perplexity"]["block_diffusion"]
    assert 1 < found["low"] <= found["value"] <= found["high"] < 400
    assert found["draws"] == 2


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["generate", "{run}"], "model.network=denoiser"),
        (["export", "{run}", "{out}"], "model.network=denoiser"),
        (["eval", "{run}", "--data", "{data}", "--streams", "2"], "a bound and no likelihood"),
        (["eval", "{run}", "--data", "{data}", "--random-orders", "0"], "needs maskings"),
    ],
)
def test_what_it_cannot_do(command: list[str], said: str, denoiser: Path, dataset: Path, tmp_path: Path) -> None:
    words = [word.format(run=denoiser, data=dataset / "held_out", out=tmp_path / "export") for word in command]
    done = armd(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "export").exists()
