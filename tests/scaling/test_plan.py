"""`armd plan`: the configs that ship, what it proposes, what it prints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from armd_dist.cli.main import app
from armd_dist.config import load_run
from armd_dist.errors import ConfigError
from armd_dist.run import Run
from armd_dist.scaling.communication import communication_of
from armd_dist.scaling.hardware import GPU, GPUS
from armd_dist.scaling.memory import memory_of
from armd_dist.scaling.plan import changed, make_plan

CONFIGS = Path(__file__).parents[2] / "configs"
ONE_PIECE = ["parallel.tensor=1", "parallel.sequence=false", "parallel.pipeline=1"]
SHIPPED = [("armd_125m", 8), ("lomdm_125m", 8), ("armd_345m", 8), ("armd_1b", 16), ("armd_7b", 64)]
Runs = Callable[..., Run]


def shown(*arguments: str) -> Any:
    done = CliRunner().invoke(app, ["plan", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "gpus"), SHIPPED)
def test_shipped_configs_fit_their_gpus(name: str, gpus: int) -> None:
    run = load_run(CONFIGS / f"{name}.yaml", world_size=gpus)
    made = make_plan(run, gpus, GPUS["h100"])
    assert made.fits
    assert not made.proposals
    assert not made.leaves_node
    assert run.parallel.zero_stage >= 1


def test_proposals_fit_and_change_as_little_as_is_needed() -> None:
    run = load_run(CONFIGS / "armd_7b.yaml", ["training.micro_batch_size=8", *ONE_PIECE], world_size=64)
    made = make_plan(run, 64, GPUS["h100"])
    assert not made.fits
    assert made.proposals[0] == {"training.micro_batch_size": 1}
    for changes in made.proposals:
        assert make_plan(changed(run, changes), 64, GPUS["h100"]).fits
    assert {"parallel.recompute": "full"} in made.proposals


def test_nothing_fits_a_gpu_that_is_too_small(run_with: Runs) -> None:
    made = make_plan(run_with(), 2, GPU("tiny", 1e3, 1e12, 1e9, 1e9))
    assert not made.fits
    assert not made.proposals


def test_json_says_what_the_tables_say() -> None:
    config = str(CONFIGS / "armd_345m.yaml")
    numbers = shown(config, "--gpus", "8", "--tokens", "100B", "--gpu", "a100")
    assert numbers["fits"] is True
    assert numbers["tokens"] == 1e11
    assert numbers["gpu"] == "A100 80GB SXM"
    memory = numbers["memory"]
    assert len(memory["layers"]) == 24
    per_second = 8 * 312e12 * 0.4 / numbers["flops_per_token"]
    assert numbers["days"] == pytest.approx(1e11 / per_second / 86_400)
    table = CliRunner().invoke(app, ["plan", config, "--gpus", "8"]).stdout
    assert f"{memory['total'] / 1e9:,.2f}" in table
    assert "It fits." in table


def test_days_are_of_the_runs_own_tokens_by_default(run_with: Runs) -> None:
    run = run_with()
    made = make_plan(run, 2, GPUS["h100"], mfu=0.2)
    assert made.tokens == 10 * 8 * 64
    assert made.days * 86_400 == pytest.approx(10 * made.step_seconds)
    assert made.days == pytest.approx(2 * make_plan(run, 2, GPUS["h100"], mfu=0.4).days)


def test_a_run_that_does_not_fit_is_marked_and_exits_with_0() -> None:
    config = str(CONFIGS / "armd_7b.yaml")
    done = CliRunner().invoke(app, ["plan", config, "training.micro_batch_size=16", *ONE_PIECE, "--gpus", "64"])
    assert done.exit_code == 0
    assert "IT DOES NOT FIT." in done.stdout
    assert "would fit: " in done.stdout


@pytest.mark.parametrize("tokens", ["many", "", "-1B", "0", "infB"])
def test_tokens_must_be_a_number(tokens: str) -> None:
    done = CliRunner().invoke(app, ["plan", str(CONFIGS / "armd_125m.yaml"), "--tokens", tokens])
    assert done.exit_code == 2


def test_problems_of_the_world_size_are_told() -> None:
    done = CliRunner().invoke(app, ["plan", str(CONFIGS / "armd_7b.yaml"), "--gpus", "6"])
    assert isinstance(done.exception, ConfigError)
    assert "parallel.tensor=2: x pipeline=2 does not divide the 6 processes" in str(done.exception)


def test_communication_by_hand(run_with: Runs) -> None:
    run = run_with(model={"query_context": "none"}, parallel={"tensor": 2})
    sent = communication_of(run, 4, GPUS["h100"])
    weights = memory_of(run, 4).weights
    assert sent.gradients == pytest.approx(2 * 3 / 4 * weights)
    assert sent.weights == pytest.approx(3 / 4 * weights)
    # Streams of 2 x 64 rows through 5 layers, 2 of them double: twice 2 forward, and 2 and the keys' backward; the
    # embedding's and the head's all-reduce. One pass.
    streams = 2 * 2 + 3
    reduced = 2 * streams + 2 * streams + 5 + 2
    assert sent.hidden_states == pytest.approx(reduced * 2 * (2 - 1) / 2 * 2 * 64 * run.model.hidden_size * 2)
    assert sent.tensor_seconds == pytest.approx(sent.hidden_states / 450e9)
    assert communication_of(run_with(), 1, GPUS["h100"]).gradients == 0


def test_sequence_parallelism_saves_memory_and_recomputing_more(run_with: Runs) -> None:
    split = {"tensor": 2, "zero_stage": 1}
    plain, sequence, again = (
        memory_of(run_with(parallel={**split, **more}), 1).activations
        for more in ({}, {"sequence": True}, {"sequence": True, "recompute": "full"})
    )
    assert again < sequence < plain
