from pathlib import Path

import pytest
import torch
from strangers import in_a_fresh_process

from armd_dist.export.write import export_checkpoint


@pytest.fixture(scope="session")
def tiny_export(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the tiny run. Read it; do not write into it."""
    out = tmp_path_factory.mktemp("exported") / "export"
    assert export_checkpoint(trained, out)
    return out


@pytest.fixture(scope="session")
def fresh(tiny_export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return in_a_fresh_process(tiny_export, tmp_path_factory.mktemp("fresh"))
