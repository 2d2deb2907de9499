"""A study so small that starting its processes is most of the work, and what looks like its finished runs."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from armd_dist.checkpoint.folder import COMPLETE, step_folder
from armd_dist.config import to_yaml
from armd_dist.scaling.grid import PlannedRun
from armd_dist.scaling.ladder import HEADLINE
from armd_dist.scaling.standing import ask_evaluation, evaluation_of, run_dir
from armd_dist.scaling.study import Study

BASE: dict[str, Any] = {
    "run": {"dir": "unused"},
    "model": {"vocab_size": 400, "max_sequence_length": 32, "hidden_size": 32, "num_layers": 2},
    "data": {"path": "unused", "sequence_length": 32},
    "orders": {"left_to_right_steps": 25, "progressive_steps": 50, "rho_max": 4, "strided_from": 75},
    "training": {
        "steps": 100,
        "warmup_steps": 10,
        "global_batch_size": 4,
        "micro_batch_size": 4,
        "precision": "fp32",
        "learning_rate": 1e-2,
    },
    "checkpoint": {"every": 50},
    "parallel": {"zero_stage": 0},
    "logging": {"wandb": "disabled"},
}
BASE["model"]["num_attention_heads"] = 2
SMALL: dict[str, Any] = {
    "depths": [2, 3, 4],
    "ladder": {"width_per_layer": 16, "head_width": 16},
    "budgets": {"tokens": [2560, 5120, 10240]},
    "objectives": ["armd", "ar", "mdm"],
    "hardware": {"gpu": None, "flops_per_second": 1e9},
    "evaluation": {"data": "unused", "streams": [1, 2]},
    "fit": {"bootstrap": 100},
}


def study_file(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The YAML of SMALL with these changes, in folder/study; its base beside it. A change to None leaves it out."""
    written, file = folder / "base.yaml", folder / "study.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.create(BASE), OmegaConf.create(base or {})), written)
    tree = {"dir": str(folder / "study"), "base": str(written), **SMALL, **changes}
    OmegaConf.save(OmegaConf.create({name: value for name, value in tree.items() if value is not None}), file)
    return file


def finish(study: Study, planned: Sequence[PlannedRun], noise: float = 0.002) -> None:
    """Makes them look complete: losses of a law, a little off; MDM's 0.5 nats above the others'."""
    draw = np.random.default_rng(0)
    for one in planned:
        train(one)
        loss = 1.5 + 40 * one.parameters**-0.4 + 20 * one.tokens**-0.3 + (0.5 if one.cell.objective == "mdm" else 0.0)
        evaluate(study, one, loss * math.exp(noise * draw.standard_normal()))


def train(one: PlannedRun, losses: Sequence[float] | None = None) -> None:
    """Its last checkpoint, settings and metrics."""
    last = step_folder(run_dir(one), one.run.training.steps)
    last.mkdir(parents=True, exist_ok=True)
    (last / COMPLETE).write_text("{}")
    (run_dir(one) / "run.yaml").write_text(to_yaml(one.run))
    write_metrics(one, losses or [3.0] * 40)


def write_metrics(one: PlannedRun, losses: Sequence[float | None]) -> None:
    """None: a loss that was not finite."""
    run_dir(one).mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": step, "tokens_per_second": 5e3} | ({} if loss is None else {"loss": loss})
        for step, loss in enumerate(losses, start=1)
    ]
    (run_dir(one) / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def evaluate(study: Study, one: PlannedRun, loss: float) -> None:
    ask_evaluation(study, one)
    names = [HEADLINE[one.cell.objective], *(["strided_2"] if one.cell.objective == "armd" else [])]
    found = {name: {"value": math.exp(loss + 0.1 * place)} for place, name in enumerate(names)}
    for each in found.values():
        each |= {"low": 0.98 * each["value"], "high": 1.02 * each["value"]}
    (evaluation_of(one) / "evaluation.json").write_text(json.dumps({"perplexity": found}))
