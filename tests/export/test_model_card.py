"""The README of an export: settings that load again, and nothing of the machine that it was made on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_checkpoints import fake_checkpoint

from armd_dist.config import check_tree
from armd_dist.errors import ExportError
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.model_card import Evaluation, find_evaluation, model_card

MACHINE = "/somewhere/on/this/machine"
ONE = {"path": f"{MACHINE}/train"}
SEVERAL = {"mixture": [{"path": f"{MACHINE}/{name}", "weight": weight} for name, weight in (("a", 1), ("b", 2))]}


@pytest.mark.parametrize("data", [ONE, SEVERAL], ids=["path", "mixture"])
def test_settings_load_again_and_name_no_path(data: dict[str, Any]) -> None:
    tree = {
        "run": {"dir": f"{MACHINE}/run"},
        "model": {"vocab_size": 400, "max_sequence_length": 64, "hidden_size": 32, "num_attention_heads": 4},
        "data": {**data, "sequence_length": 32, "cache_dir": f"{MACHINE}/cache"},
        "validation": {"path": f"{MACHINE}/held_out"},
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


MEASURED = {
    "model": f"{MACHINE}/run",
    "data": f"{MACHINE}/held_out",
    "data_manifest_sha256": "def",
    "sequence_length": 32,
    "perplexity": {
        "left_to_right": {"value": 20.125, "low": 19.0, "high": 21.0, "tokens": 640},
        "strided_4": {"value": 23.5, "low": 22.0, "high": 25.0, "tokens": 640},
    },
    "sets": {
        "lines": {
            "path": f"{MACHINE}/lines.txt",
            "documents": 1,
            "perplexity": {"any_order": {"value": 30.0, "low": None, "high": None, "tokens": 7, "draws": 2}},
        }
    },
}


def test_data_curriculum_and_perplexity(dataset: Path) -> None:
    tree = {
        "run": {"dir": "RUN"},
        "model": {"vocab_size": 400, "max_sequence_length": 64, "hidden_size": 32, "num_attention_heads": 4},
        "data": {
            "mixture": [{"path": str(dataset / "train"), "weight": 3}, {"path": "/gone", "weight": {0: 1, 90: 2}}]
        },
        "orders": {"left_to_right_steps": 4, "progressive_steps": 8, "rho_max": 4, "strided_from": 14},
        "training": {"steps": 20, "warmup_steps": 1, "precision": "fp32"},
    }
    tree["data"]["sequence_length"] = 32  # type: ignore[index]
    run = check_tree(tree)
    trained = {"step": 10, "tokens": 1234, "sequence_length": 32, "data_manifest_sha256": "abc"}
    config = ArmdConfig(**run.model.model_dump(), trained=trained, dtype="bfloat16")
    card = model_card(run, config, Evaluation(MEASURED))
    tokens = json.loads((dataset / "train" / "manifest.json").read_text())["tokens"]
    assert f"| {tokens:,} |" in card
    assert "| 2 | not at hand | not at hand | not at hand | 1 from sample 0, 2 from sample 90 |" in card
    assert "| 5 to 8 | progressive | 2 |\n| 9 to 10 | progressive | 4 |" in card
    assert "strided |" not in card.partition("## Curriculum")[2].partition("## Perplexity")[0], "not reached"
    assert "Windows of 32 tokens of the dataset with manifest `def`:" in card
    assert "| strided 4 | 23.50 | 22.00 to 25.00 | 640 |" in card
    assert "lines, 1 documents:\n\n| order" in card
    assert "| any order | at most 30.00 |  | 7 |" in card
    assert MACHINE not in card
    assert "those of the last step, in bfloat16" in card
    assert "| tokens seen | 1,234 |" in card


def test_an_evaluation_is_taken_where_it_must_be_of_the_checkpoint(tmp_path: Path) -> None:
    before, newest = fake_checkpoint(tmp_path, 5), fake_checkpoint(tmp_path, 10)
    file = tmp_path / "evaluation" / "evaluation.json"
    file.parent.mkdir()
    assert find_evaluation(newest, False, None) is None
    file.write_text(json.dumps(MEASURED))
    found = find_evaluation(newest, False, None)
    assert found is not None
    assert found.content == MEASURED
    assert find_evaluation(newest, True, None) is None, "of the weights, not of their average"
    assert find_evaluation(before, False, None) is None, "nobody knows"
    assert find_evaluation(before, False, file) == found, "but who says so"
    os.utime(file, (1, 1))
    assert find_evaluation(newest, False, None) is None, "older than the checkpoint"
    with pytest.raises(ExportError, match=r"is of the weights of the last step \(ema=False\)"):
        find_evaluation(newest, True, file)
    for content in ("{", "{}", '{"perplexity": {"left_to_right": 3}}'):
        file.write_text(content)
        with pytest.raises(ExportError, match=r"is no evaluation\.json of armd eval"):
            find_evaluation(newest, False, file)
