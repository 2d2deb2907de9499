"""Every YAML that ships loads, and says only what is a setting."""

from pathlib import Path

import pytest

from armd_dist.config import load_run

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_run_configs_load(path: Path) -> None:
    run = load_run(path)
    assert run.training.steps > 0
