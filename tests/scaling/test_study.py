"""A study before anything runs: what is refused, how one dial makes a network, what it costs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from studies import study_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from toys import BOS
from typer.testing import CliRunner

from armd_dist.cli.main import app
from armd_dist.config import load_run
from armd_dist.errors import ConfigError
from armd_dist.model.denoiser import lay_out_masked
from armd_dist.model.initialization import initialize
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.model.network import make_network
from armd_dist.objectives.learned_order import learned_order_batch
from armd_dist.objectives.likelihood import token_nll
from armd_dist.scaling.grid import PlannedRun, config_of, plan_study, write_configs
from armd_dist.scaling.study import load_study

ALL = ["armd", "ar", "mdm", "bd3lm", "lomdm"]


def planned(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> list[PlannedRun]:
    return plan_study(load_study(study_file(folder, base, **changes)))


def problems(folder: Path, base: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(folder, base, **changes)
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_of_settings_are_told_at_once(tmp_path: Path) -> None:
    wrong: dict[str, Any] = {
        "objectives": ["armd", "gpt"],
        "budgets": {"tokens": [1e6], "flops": [1e12]},
        "depths": [2, 2],
        "sizes": [3],
        "hardware": {"gpu": None},
    }
    found = problems(tmp_path, **wrong)
    assert len(found) == 5
    for part in (
        "objectives.1=gpt: ",
        "wants exactly one of tokens, tokens_per_parameter and flops; keep one",
        "depths=[2, 2]: [2, 2] names a value twice; give each once",
        "sizes=[3]: is not a setting of a study",
        "without gpu wants flops_per_second",
    ):
        assert any(part in line for line in found), (part, found)


def test_all_problems_of_runs_are_told_once(tmp_path: Path) -> None:
    found = problems(tmp_path, ladder={"width_per_layer": 15, "head_width": 16}, budgets={"tokens": [128, 5120]})
    assert any("model.num_attention_heads=2: does not divide model.hidden_size=45" in line for line in found)
    assert any("budgets=128: gives armd-depth2-128t-seed0 1 steps of 128 tokens" in line for line in found)
    assert len(set(found)) == len(found)


def test_problems_of_the_base_are_told(tmp_path: Path) -> None:
    assert "did you mean model.hidden_size?" in problems(tmp_path, settings={"model.hidden_siz": 3})[0]
    (found,) = problems(tmp_path, settings={"run.dir.x": 3})
    assert found == "settings.run.dir.x=3: dir holds no settings; write a.b: value"
    split = {"parallel": {"tensor": 2}}
    found = problems(tmp_path, split, hardware={"gpu": "h100", "count": 1}, objectives=["ar"], depths=[2])
    assert found == [
        "parallel.tensor=2: does not divide the 1 processes of this job; start a multiple of 2 processes, or use 1"
    ]


def test_under_mup_every_size_has_the_rate_of_the_base(tmp_path: Path) -> None:
    runs = planned(tmp_path, settings={"model.mup_base_width": 32}, objectives=ALL)
    assert {one.run.training.learning_rate for one in runs} == {1e-2}
    assert {one.run.model.mup_base_width for one in runs} == {32}
    assert {one.run.model.hidden_size for one in runs} == {32, 48, 64}
    twice = {"width_per_layer": 16, "head_width": 16, "learning_rate_power": 0.5}
    assert problems(tmp_path, settings={"model.mup_base_width": 32}, ladder=twice) == [
        "ladder.learning_rate_power=0.5: lowers the learning rate with the width, which model.mup_base_width=32 does "
        "for each weight; leave one of the two out"
    ]


def test_one_dial_makes_the_network(tmp_path: Path) -> None:
    runs = planned(tmp_path, objectives=ALL, budgets={"tokens_per_parameter": [0.3]})
    assert [one.name for one in runs[:3]] == [f"armd-depth{depth}-0.3x-seed0" for depth in (2, 3, 4)]
    for one in runs:
        model, depth = one.run.model, one.cell.depth
        assert (model.num_layers, model.hidden_size, model.num_attention_heads) == (depth, 16 * depth, depth)
        assert one.run.training.learning_rate == pytest.approx(1e-2 * 32 / (16 * depth), rel=1e-3)
        assert one.tokens == pytest.approx(0.3 * one.parameters, rel=0.05)
    for depth in (2, 3, 4):
        sizes = {one.cell.objective: one.parameters for one in runs if one.cell.depth == depth}
        assert sizes["ar"] == sizes["armd"]
        assert sizes["mdm"] == sizes["bd3lm"] == pytest.approx(sizes["armd"], rel=0.01)
        assert sizes["lomdm"] > sizes["mdm"], "by its heads"
    by_objective = {one.cell.objective: one.run for one in runs}
    plain, learned = (by_objective[name].model for name in ("mdm", "lomdm"))
    assert learned == plain.model_copy(update={"learned_order": True})
    assert by_objective["armd"].model.two_stream_layers == 2
    assert by_objective["ar"].model.two_stream_layers == 0
    assert by_objective["ar"].orders.mixture == {"left_to_right": 1}
    assert (by_objective["mdm"].orders.block_length, by_objective["bd3lm"].orders.block_length) == (None, 4)


def test_schedules_keep_their_shares(tmp_path: Path) -> None:
    (run,) = (one.run for one in planned(tmp_path, objectives=["armd"], depths=[2], budgets={"tokens": [51200]}))
    orders, training = run.orders, run.training
    assert (training.steps, training.warmup_steps, run.checkpoint.every) == (400, 40, 200)
    assert (orders.left_to_right_steps, orders.progressive_steps, orders.strided_from) == (100, 200, 300)


def test_slices_cost_what_they_say_whatever_the_objective(tmp_path: Path) -> None:
    for one in planned(tmp_path, objectives=ALL, budgets={"flops": [5e10]}):
        step = one.flops / one.run.training.steps
        assert one.flops == pytest.approx(5e10, abs=0.51 * step), "but for the last step's rounding"


def test_shares_of_two_streams_and_seeds_are_runs_of_their_own(tmp_path: Path) -> None:
    runs = planned(tmp_path, depths=[4], two_stream=[0.25, 0.75], seeds=[0, 1], budgets={"tokens": [1e4]})
    assert len(runs) == 2 * (2 + 1 + 1)
    assert {one.run.model.two_stream_layers for one in runs if one.cell.objective == "armd"} == {1, 3}
    assert {one.cell.series for one in runs} == {"armd-0.25", "armd-0.75", "ar", "mdm"}


@pytest.mark.parametrize("objective", ALL)
def test_planned_flops_are_counted_flops(tmp_path: Path, objective: str) -> None:
    for one in planned(tmp_path, objectives=[objective], budgets={"tokens": [1e4]}):
        model, length = one.run.model, one.run.data.sequence_length
        ids = torch.randint(2, model.vocab_size, (1, length))
        network: Any = make_network(model, PlainLayers())
        if objective == "lomdm":
            step = learned_order_batch(ids, 0, [0], BOS)
        elif model.network == "denoiser":
            window = one.run.orders.block_length or length
            layout: Any = lay_out_masked(ids, torch.ones_like(ids, dtype=torch.bool), window, BOS)
        else:
            places = torch.arange(1, length + 1)[None]
            layout = lay_out(ids, places, places, BOS)
        initialize(network, model, seed=0)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss = step.loss(network).objective if objective == "lomdm" else token_nll(network, layout, ids).sum()
            loss.backward()
        assert counter.get_total_flops() == pytest.approx(one.flops_per_token * length, rel=0.02)


def test_what_fits_no_gpu_is_refused_and_what_needs_it_gets_another_layout(tmp_path: Path) -> None:
    base = {"model": {"vocab_size": 32000}, "training": {"precision": "bf16"}, "parallel": {"zero_stage": 1}}
    giant = {"ladder": {"width_per_layer": 128, "head_width": 128}, "objectives": ["armd"], "seeds": [0]}
    found = problems(tmp_path, base, depths=[128], budgets={"tokens": [1e6]}, hardware={"gpu": "h100"}, **giant)
    assert found[0].startswith("depths=128: (armd) fits 1 x H100 SXM under no layout")
    (run,) = planned(
        tmp_path, base, depths=[40], budgets={"tokens": [1e9]}, hardware={"gpu": "h100", "count": 4}, **giant
    )
    assert run.layout
    assert run.run.parallel.tensor * run.run.parallel.pipeline > 1 or run.run.parallel.zero_stage > 1
    assert run.gpu_hours == pytest.approx(run.flops / (989e12 * 0.4) / 3600, rel=0.5)


def test_the_verb_prints_a_table_and_writes_configs_that_load(tmp_path: Path) -> None:
    file = study_file(tmp_path, held_out=[{"depth": 5, "tokens": 20480}])
    done = CliRunner().invoke(app, ["scaling", "plan", str(file)])
    assert done.exit_code == 0, done.output
    assert "30 runs" in done.stdout
    assert "armd-depth5-20480t-seed0 (held out)" in done.stdout
    study = load_study(file)
    runs = plan_study(study)
    assert sum(one.gpu_hours for one in runs) == pytest.approx(sum(one.flops for one in runs) / 1e9 / 3600)
    folder = write_configs(study, runs)
    assert len(list(folder.glob("*.yaml"))) == 30
    for one in runs:
        assert load_run(config_of(study, one), world_size=1) == one.run


def test_the_study_that_ships_can_be_planned() -> None:
    runs = plan_study(load_study(Path(__file__).parents[2] / "configs" / "scaling" / "miniature.yaml"))
    assert len(runs) == 36
    assert 1.4e5 < min(one.parameters for one in runs) < max(one.parameters for one in runs) < 3.5e6
