"""The README of an export: settings that load again, and nothing of the machine that it was made on."""

from typing import Any

import pytest
import yaml

from armd_dist.config import check_tree
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.model_card import model_card

MACHINE = "/somewhere/on/this/machine"
ONE = {"path": f"{MACHINE}/train"}
SEVERAL = {"mixture": [{"path": f"{MACHINE}/{name}", "weight": weight} for name, weight in (("a", 1), ("b", 2))]}


@pytest.mark.parametrize("data", [ONE, SEVERAL], ids=["path", "mixture"])
def test_settings_load_again_and_name_no_path(data: dict[str, Any]) -> None:
    tree = {
        "run": {"dir": f"{MACHINE}/run"},
        "model": {"vocab_size": 400, "max_sequence_length": 64, "hidden_size": 32, "num_attention_heads": 4},
        "data": {**data, "sequence_length": 32},
        "training": {"steps": 10, "warmup_steps": 1, "precision": "fp32"},
        "checkpoint": {"resume": f"{MACHINE}/run/checkpoints/step-00000005"},
    }
    trained = {"step": 10, "tokens": 1, "sequence_length": 32, "data_manifest_sha256": "abc"}
    run = check_tree(tree)
    card = model_card(run, ArmdConfig(**run.model.model_dump(), trained=trained))
    assert MACHINE not in card
    again = check_tree(yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0]))
    assert [dataset.weight for dataset in again.data.datasets] == [dataset.weight for dataset in run.data.datasets]
    assert again.model == run.model
    assert "| longest text trained on, tokens | 32 |" in card
