"""The large configs under the layout that they ship with, on eight processes: all but the sizes is theirs."""

import math
from pathlib import Path

import pytest
from ranks import armd, metrics

CONFIGS = Path(__file__).parents[2] / "configs"
STEPS, BATCH = 3, 16
SMALL = [
    "model.vocab_size=400",
    "model.hidden_size=32",
    "model.num_attention_heads=4",
    "model.max_sequence_length=32",
    "data.sequence_length=32",
    f"training.global_batch_size={BATCH}",
    "training.micro_batch_size=1",
    f"training.stop_at={STEPS}",
    "validation.path=null",
    "logging.wandb=disabled",
]
# The table of stages: ranks of each pipeline rank.
SHAPES = {"armd_1b": ["0-7"], "armd_7b": ["0-3", "4-7"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("armd_1b", marks=pytest.mark.grid), "armd_7b"])
def test_narrow_twin_trains_under_the_layout_of_its_config(name: str, dataset: Path, tmp_path: Path) -> None:
    train = ["train", CONFIGS / f"{name}.yaml", *SMALL, f"data.path={dataset / 'train'}"]
    done = armd(*train, f"run.dir={tmp_path / 'eight'}", processes=8)
    assert done.returncode == 0, done.stderr
    for ranks in SHAPES[name]:
        assert ranks in done.stderr
    one_process = ["parallel.tensor=1", "parallel.sequence=false", "parallel.pipeline=1"]
    alone = armd(*train, *one_process, f"run.dir={tmp_path / 'one'}")
    assert alone.returncode == 0, alone.stderr
    found, wanted = metrics(tmp_path / "eight"), metrics(tmp_path / "one")
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for here, there in zip(found, wanted, strict=True):
        assert math.isfinite(here["grad_norm"])
        assert here["loss"] == pytest.approx(there["loss"], abs=0.01)
