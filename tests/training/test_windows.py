"""From settings to layouts: documents apart or as one text, and data that is too small for a step."""

from pathlib import Path
from typing import Any

import pytest
from numbered import numbered_dataset

from armd_dist.config import check_tree
from armd_dist.errors import ConfigError
from armd_dist.model.denoiser import DenoiserLayout
from armd_dist.run import Run
from armd_dist.training.batches import Batches
from armd_dist.training.start import open_data
from data_pipeline.errors import DataError

LENGTH, WINDOWS = 8, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token k is the id k and 2 ends a document: the first window has two documents, [0, 1, 2] and [3 ... 7]."""
    return numbered_dataset(tmp_path_factory.mktemp("windows") / "data", WINDOWS * LENGTH + 5)


def tree(network: str = "armd", batch: int = WINDOWS, **data: object) -> dict[str, Any]:
    return {
        "run": {"dir": "unused"},
        "model": {"vocab_size": 1 << 17, "max_sequence_length": LENGTH, "network": network},
        "data": {"sequence_length": LENGTH, **data},
        "orders": {"left_to_right_steps": 4, "rho_max": 2},
        "training": {"steps": 9, "warmup_steps": 0, "global_batch_size": batch, "micro_batch_size": 1},
    }


@pytest.mark.parametrize("network", ["armd", "denoiser"])
@pytest.mark.parametrize("attention", [None, "across_documents", "within_document"])
def test_the_setting_decides_where_places_begin(network: str, attention: str | None, folder: Path) -> None:
    chosen: dict[str, Any] = {} if attention is None else {"attention": attention}
    run = Run.model_validate(tree(network=network, path=str(folder), **chosen))
    batches = Batches(run, open_data(run), 0, 1)
    (first,) = (batch for batch in batches.at(0) if batch.targets.min() == 0)
    layout = first.layout
    places = layout.positions if isinstance(layout, DenoiserLayout) else layout.query_positions
    apart = attention == "within_document"
    assert places[0].tolist() == ([1, 2, 3, 1, 2, 3, 4, 5] if apart else list(range(1, 9)))
    (other,) = (batch for batch in batches.at(0) if batch.targets.min() == LENGTH)
    assert other.layout.visibility.query.causal if network == "armd" else other.layout.of_text.dense is None  # type: ignore[union-attr]


def test_another_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.attention=within: input should be 'across_documents' or 'within_doc"):
        check_tree(tree(path="x", attention="within"))


def test_fewer_windows_than_a_step_takes(folder: Path, tmp_path: Path) -> None:
    """As many as a step takes are enough, whatever the processes; the windows of a mixture count together."""
    for batch in (1, WINDOWS):
        open_data(Run.model_validate(tree(batch=batch, path=str(folder))))
    with pytest.raises(DataError) as error:
        open_data(Run.model_validate(tree(batch=WINDOWS + 1, path=str(folder))))
    assert f"{folder} (53 tokens): makes 6 windows of data.sequence_length=8 tokens, fewer than " in str(error.value)
    assert "training.global_batch_size=7: " in str(error.value)
    assert "use training.global_batch_size=6 or less, a shorter data.sequence_length, or more text" in str(error.value)
    other = numbered_dataset(tmp_path / "other", LENGTH, first=1000)
    mixture = [{"path": str(path), "weight": 1} for path in (folder, other)]
    open_data(Run.model_validate(tree(batch=WINDOWS + 1, mixture=mixture)))
    with pytest.raises(DataError, match="makes 7 windows"):
        open_data(Run.model_validate(tree(batch=WINDOWS + 2, mixture=mixture)))
