"""A run whose data spoils gradients, and one whose replicas part: what is told, counted, saved, and resumed."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ranks import environment, metrics

from armd_dist.checkpoint.folder import complete_checkpoints, read_training_state
from armd_dist.checkpoint.tensors import load_model
from armd_dist.config import load_run
from armd_dist.errors import TrainingError
from armd_dist.orders.curriculum import Position
from armd_dist.parallel.engine import StepResult
from armd_dist.training.health import Health
from armd_dist.training.rewind import Rewinds
from data_pipeline.audit import audit

HERE = Path(__file__).parent
WEIGHT = "two_stream.1.mlp.up.weight"


@pytest.fixture(scope="module")
def runs(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    """The folder of all runs; what was said in each."""
    out = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, str(HERE / "poisoned.py"), str(tiny_config), str(out)],
        env={**environment(), "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, list[str]] = {}
    for line in done.stderr.splitlines():
        if line in ("whole:", "resumed:", "limited:", "rewound:", "flipped:"):
            said[line[:-1]] = []
        elif said:
            list(said.values())[-1].append(line)
    return out, said


def test_the_update_is_skipped_named_and_counted(runs: tuple[Path, dict[str, list[str]]]) -> None:
    out, said = runs
    told = [line for line in said["whole"] if "update skipped" in line]
    assert len(told) == 2
    for line, step, sample in zip(told, (7, 8), (52, 60), strict=True):
        assert line.startswith(f"step {step}: loss="), line
        assert f"update skipped ({step - 6} so far): the gradient of {WEIGHT} is not finite on rank 0" in line
        assert line.endswith(f"samples {sample} to {sample + 1}")
    lines = metrics(out / "whole")
    assert [line["skipped_updates"] for line in lines] == [0] * 6 + [1] + [2] * 13
    assert [line["step"] for line in lines if "grad_norm" not in line] == [7, 8]
    assert lines[-1]["consumed_samples"] == 20 * 8
    assert all("loss" in line for line in lines)
    json.loads((out / "whole" / "metrics.jsonl").read_text().splitlines()[6], parse_constant=pytest.fail)


def test_a_resumed_run_counts_on_and_equals_the_uninterrupted_one(runs: tuple[Path, dict[str, list[str]]]) -> None:
    out, _ = runs
    assert read_training_state(complete_checkpoints(out / "whole")[0]).skipped_updates == 0
    for name in ("whole", "resumed"):
        assert read_training_state(complete_checkpoints(out / name)[-1]).skipped_updates == 2
    whole, resumed = metrics(out / "whole"), metrics(out / "resumed")
    for mine, other in zip(whole, resumed, strict=True):
        assert {**mine, "tokens_per_second": 0} == {**other, "tokens_per_second": 0}
    models = [load_model(out / name)[0] for name in ("whole", "resumed")]
    for (name, mine), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, other), name


def test_too_many_in_a_row_end_the_run(runs: tuple[Path, dict[str, list[str]]]) -> None:
    out, said = runs
    error = said["limited"][-1]
    assert error.startswith("error: step 8: loss=")
    assert f"(2 in a row, health.max_skipped=1): the gradient of {WEIGHT} is not finite on rank 0" in error
    newest = out / "limited" / "checkpoints" / "step-00000005"
    assert f"samples 60 to 61; go on with checkpoint.resume={newest} training.learning_rate=0.005" in error
    assert len(metrics(out / "limited")) == 7


@pytest.mark.parametrize(
    ("grad_norm", "why"),
    [
        (2.0, "not reproduced when the step was repeated: suspect the hardware"),
        (math.inf, "each process' own gradients are finite, but not their sum or its norm"),
    ],
)
def test_what_no_gradient_explains(
    grad_norm: float, why: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = SimpleNamespace(
        run=load_run(tiny_config, ["health.spike_factor=null"]),
        topology=SimpleNamespace(is_main=True),
        repeat=lambda _: (StepResult(1.0, grad_norm), None),
        skipped_updates=3,
    )
    health = Health(engine, SimpleNamespace(), 0)  # type: ignore[arg-type]
    assert not health.look(6, Position("left_to_right", 1, 0), StepResult(math.nan, math.inf), [])
    assert capsys.readouterr().err == f"step 7: loss=nan, grad_norm=inf: update skipped (3 so far): {why}\n"


def test_what_differs_is_not_saved(runs: tuple[Path, dict[str, list[str]]]) -> None:
    """The comparison is due after the first step, every third one, and before each checkpoint."""
    out, said = runs
    assert [path.name for path in complete_checkpoints(out / "flipped")] == ["step-00000005"]
    error = said["flipped"][-1]
    assert error.startswith("error: step 9: the bits of a weight differ on rank 1: a fault of memory")
    assert "leave that machine out, and the same command goes on from the newest checkpoint" in error


def test_a_spike_sends_back_and_its_samples_are_left_out(runs: tuple[Path, dict[str, list[str]]]) -> None:
    out, said = runs
    folder = out / "rewound"
    told = [line for line in said["rewound"] if "step 136" in line]
    checkpoint = folder / "checkpoints" / "step-00000120"
    assert told[-1] == f"step 136: going back to {checkpoint} (1 of 3), and on behind sample 1087"
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 141))
    assert not any("loss_spike" in line for line in lines)
    assert [lines[step]["consumed_samples"] for step in (119, 120, 139)] == [960, 1096, 1248]
    proof = audit(folder, 140)
    assert not proof.problems
    assert proof.left_out == [(960, 1088)]
    assert proof.samples == 140 * 8


def test_going_back_ends_where_it_does_not_help(tiny_config: Path) -> None:
    rewinds = Rewinds(load_run(tiny_config, ["health.rewind=true", "health.max_rewinds=2"]))
    assert rewinds.find(3, 32, None) == (None, "step 4: there is no checkpoint yet to go back to")
    for newest in (5, 5, 10, 10):
        back, _ = rewinds.find(11, 96, newest)
        assert back is not None
        assert back.begun == (newest, 96)
    with pytest.raises(TrainingError, match=r"step 12: spikes again after 2 rewind\(s\) to .*step-00000010"):
        rewinds.find(11, 96, 10)
