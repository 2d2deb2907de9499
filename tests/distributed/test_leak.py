"""Split over two processes the model leaks no more than whole: no row knows a token of its own block or a later one."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import on_ranks
from toys import SCHEMES

Measured = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """All cases from one pair of processes, whose start takes longer than the measuring."""
    out = tmp_path_factory.mktemp("leaks") / "leaks.json"
    on_ranks(Path(__file__).with_name("leaks.py"), out)
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_no_leak_and_no_blindness_on_two_processes(layers: int, name: str, measured: Measured) -> None:
    (case,) = [one for one in measured["sound"] if (one["scheme"], one["two_stream_layers"]) == (name, layers)]
    assert case["apart"] < 1e-10, "it must be the same model"
    assert case["gradient"] == 0
    assert case["intervention"] < 1e-12
    assert case["blindness"] == 0


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_a_strict_mask_that_is_not_strict_is_found(layers: int, measured: Measured) -> None:
    (case,) = [one for one in measured["planted"] if one["two_stream_layers"] == layers]
    assert case["apart"] < 1e-10, "the bug is in both"
    assert min(case["gradient"], case["intervention"]) > 1e-4
