"""benchmarks/gpu_train.py, as far as a CPU goes: what it trains, what it compares, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import gpu_train
import pytest
import torch
from ranks import environment

from armd_dist.errors import ConfigError
from armd_dist.model.cost import num_parameters

SCRIPT = Path(gpu_train.__file__)


def test_shapes_are_those_of_the_configs_and_ar_is_as_large_as_armd() -> None:
    for shape, millions in (("125m", 112), ("345m", 339), ("1.3b", 1297)):
        runs = [gpu_train.make_run(shape, work, 4, None, trial=False) for work in gpu_train.WORK]
        assert {round(num_parameters(run.model) / 1e6) for run in runs} == {millions}
        for run in runs:
            assert run.training.global_batch_size == 4 * run.training.micro_batch_size
            assert (run.training.precision, run.model.hidden_dropout) == ("bf16", 0)


def test_orders_are_of_single_tokens_or_of_blocks() -> None:
    for work, causal in (("ar", True), ("armd", True), ("armd, strided", False)):
        run = gpu_train.make_run("125m", work, 2, 8, trial=True)
        found = gpu_train.batches(run, work, step=0)
        assert len(found) == 2
        assert all(batch.layout.visibility.query.causal == causal for batch in found)
        left_to_right = bool((found[0].layout.query_positions.diff(dim=1) == 1).all())
        assert left_to_right == (work == "ar")


def test_another_result_than_the_cpus_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(gpu_train.compare(torch.device("cpu")).values()) == {0.0}
    to = torch.nn.Module.to

    def broken(model: torch.nn.Module, *where: object) -> torch.nn.Module:
        with torch.no_grad():
            next(model.parameters())[2:4] += 0.01 * (where[0] == torch.device("cpu", 0))
        return to(model, *where)

    monkeypatch.setattr(torch.nn.Module, "to", broken)
    with pytest.raises(AssertionError, match="computes something else than the CPU"):
        gpu_train.compare(torch.device("cpu", 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_with_all_else_that_is_wrong() -> None:
    with pytest.raises(ConfigError) as caught:
        gpu_train.main(shapes="3b", gpu="v100")
    told = [str(problem) for problem in caught.value.problems]
    assert told[0] == "CUDA=none: there is no GPU, which is what is measured; take one, or --trial"
    assert told[1:] == [
        "--shapes=3b: is not a shape; use 125m, 345m, 1.3b",
        "--gpu=v100: is not a kind whose peak is known; use h200, h100, a100",
    ]


@pytest.mark.grid
def test_the_trial_goes_through(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = [sys.executable, str(SCRIPT), "--trial", "--shapes", "125m", "--rounds", "1", "--out", str(out)]
    where = {**environment(), "PYTHONPATH": str(SCRIPT.parents[1])}
    done = subprocess.run(words, env=where, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    works = json.loads(out.read_text())["results"]["shapes"]["125m"]
    assert set(works) == {"ar", "armd", "armd, strided"}
    for name, one in works.items():
        assert one["tokens_per_second"] > 0
        assert one["planned_bytes"] > 12 * one["parameters"]
        assert name == "ar" or one["flops_over_ar"] > 1.1
