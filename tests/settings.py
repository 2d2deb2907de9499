"""A sound configuration to change, and the problems that are told of one."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from armd_dist.config import load_run
from armd_dist.errors import ConfigError
from armd_dist.run import Run


def tree(**sections: dict[str, Any]) -> dict[str, Any]:
    """A sound configuration, with the settings of some sections replaced."""
    base: dict[str, dict[str, Any]] = {
        "run": {"dir": "runs/x"},
        "model": {"vocab_size": 100, "hidden_size": 64, "num_layers": 4, "num_attention_heads": 8},
        "data": {"path": "data/train", "sequence_length": 128},
        "orders": {"rho_max": 16},
        "training": {"steps": 100, "warmup_steps": 10, "global_batch_size": 32, "precision": "fp32"},
    }
    return {name: base.get(name, {}) | sections.get(name, {}) for name in base | sections}


def load(
    path: Path, settings: dict[str, Any], overrides: list[str] | None = None, world_size: int | None = None
) -> Run:
    path.write_text(yaml.safe_dump(settings))
    return load_run(path, overrides, world_size)


def problems(
    path: Path, settings: dict[str, Any], overrides: list[str] | None = None, world_size: int | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(path, settings, overrides, world_size)
    assert str(error.value).splitlines() == [str(problem) for problem in error.value.problems]
    return str(error.value).splitlines()
