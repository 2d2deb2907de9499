"""The network's switches under tensor parallelism: losses and gradient norms are those of one process."""

from pathlib import Path

import pytest
import torch
from ranks import armd, metrics

from armd_dist.checkpoint.tensors import load_model

STEPS = 12
SWITCHES = [
    "model.num_key_value_heads=2",
    "model.qk_norm=true",
    "model.activation=swiglu",
    "model.normalization=layernorm",
    "model.tie_embeddings=false",
    "model.position_embedding=rotary",
    f"training.stop_at={STEPS}",
]


@pytest.fixture(scope="module")
def alone(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = armd("train", tiny_config, f"run.dir={folder}", *SWITCHES)
    assert done.returncode == 0, done.stderr
    return folder


def agree(found: Path, wanted: Path, tolerance: float) -> None:
    here, there = metrics(found), metrics(wanted)
    assert [line["step"] for line in here] == [line["step"] for line in there] == list(range(1, STEPS + 1))
    for mine, reference in zip(here, there, strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=tolerance)
        assert mine["grad_norm"] == pytest.approx(reference["grad_norm"], rel=tolerance)


@pytest.mark.parametrize("zero_stage", [0, 1])
def test_tensor_parallel_switches_agree_with_one_process(
    zero_stage: int, alone: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """A head norm's weight is whole on every process but sees that process' heads only: its gradient must be summed."""
    folder = tmp_path / "run"
    layout = ["parallel.tensor=2", f"parallel.zero_stage={zero_stage}"]
    done = armd("train", tiny_config, f"run.dir={folder}", *SWITCHES, *layout, processes=2)
    assert done.returncode == 0, done.stderr
    agree(folder, alone, 1e-5)
    weights, wanted = (load_model(run)[0].state_dict() for run in (folder, alone))
    head_norms = [name for name in wanted if name.endswith(("query_norm.weight", "key_norm.weight"))]
    assert len(head_norms) == 2 * 3
    for name in head_norms:  # a small part of the whole gradient, but Adam steps by 1e-2 for the smallest
        torch.testing.assert_close(weights[name], wanted[name], rtol=0, atol=1e-4)


def test_dropout_is_the_same_on_all_tensor_parallel_processes(trained: Path, tiny_config: Path, tmp_path: Path) -> None:
    """One process and two drop the same features, and dropping changes the losses."""
    for tensor in (1, 2):
        settings = [f"run.dir={tmp_path / str(tensor)}", "model.hidden_dropout=0.3", "training.stop_at=4"]
        done = armd("train", tiny_config, *settings, f"parallel.tensor={tensor}", processes=tensor)
        assert done.returncode == 0, done.stderr
    one, two = (metrics(tmp_path / str(tensor)) for tensor in (1, 2))
    for mine, reference, whole in zip(two, one, metrics(trained)[:4], strict=True):
        assert mine["loss"] == pytest.approx(reference["loss"], abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-5)
        assert abs(reference["loss"] - whole["loss"]) > 1e-3
