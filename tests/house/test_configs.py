"""Every YAML that ships loads, and says only what is a setting."""

from pathlib import Path

import pytest

from armd_dist.config import load_run

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "benchmarks" / "presets").glob("*.yaml")])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_run_configs_load(path: Path) -> None:
    run = load_run(path)
    assert run.training.steps > 0
