"""What the benchmarks would run, without running it: equal size, equal tokens, equal FLOPs, and orders that differ."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ablation import design, markdown, row
from ablation import jobs as ablation_jobs
from claims import claim_line, claims
from models import MODELS, SIZES, Setting, setting
from quality import best_rates, closest_pair, equal_flops, equal_steps, parse_rates, planned, strided, trials
from quality_report import edge_text, rates_table

from armd_dist.errors import ArmdError
from armd_dist.training.schedule import learning_rate

STEPS = 200
RATE = 2e-3
RATES = dict.fromkeys(MODELS, RATE)


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def chosen(request: pytest.FixtureRequest) -> Setting:
    return setting(request.param, STEPS, [], None)


def test_models_have_equal_parameters_and_tokens(chosen: Setting) -> None:
    facts = {name: equal_steps(chosen, name, RATE).facts for name in MODELS}
    armd = facts["armd"]
    assert facts["ar"]["parameters"] == facts["any_order"]["parameters"] == armd["parameters"]
    for name in ("mdlm", "bd3lm"):
        assert abs(facts[name]["parameters"] - armd["parameters"]) <= 2e-4 * armd["parameters"]
    assert {found["tokens"] for found in facts.values()} == {armd["tokens"]}


def test_second_runs_spend_what_ar_spends(chosen: Setting) -> None:
    flops = {
        name: job.facts["training_flops_per_token"] * job.facts["tokens"]
        for name, job in equal_flops(chosen, RATES).items()
    }
    for name, spent in flops.items():
        assert spent == pytest.approx(flops["ar"], rel=0.03), name
    assert equal_flops(chosen, RATES)["ar"] == equal_steps(chosen, "ar", RATE)
    assert equal_flops(chosen, RATES)["armd"].steps < STEPS


def test_shorter_run_is_the_same_schedule_scaled(chosen: Setting) -> None:
    long, short = equal_steps(chosen, "armd", RATE), equal_flops(chosen, RATES)["armd"]
    share = short.steps / long.steps
    for before, after in ((chosen.run(long.overrides), chosen.run(short.overrides)),):
        assert after.orders.left_to_right_steps == pytest.approx(share * before.orders.left_to_right_steps, abs=1)
        assert after.orders.progressive_steps == pytest.approx(share * before.orders.progressive_steps, abs=1)
        assert after.training.warmup_steps == pytest.approx(share * before.training.warmup_steps, abs=1)
        assert after.orders.strided_from is None


def test_seeds_change_the_seed_alone(chosen: Setting) -> None:
    first, second = (chosen.run(equal_steps(chosen, "armd", RATE, seed).overrides) for seed in (0, 1))
    changed = second.training.model_copy(update={"seed": 0})
    assert second.training.seed == 1
    assert second.model_copy(update={"training": changed}) == first


@pytest.mark.parametrize("rate", [1e-4, 6e-4, 4e-3])
def test_strided_continuation_decays_from_a_quarter_of_the_peak(chosen: Setting, rate: float) -> None:
    job, of = strided(chosen, {**RATES, "armd": rate}), equal_steps(chosen, "armd", rate)
    before, after = chosen.run(of.overrides), chosen.run(job.overrides)
    assert (job.after, job.first, job.steps) == (of.name, STEPS, STEPS + 30) == (f"armd-{rate:g}", 200, 230)
    assert job.name == f"armd-{rate:g}-strided"
    assert after.orders.strided_from == STEPS
    assert after.model == before.model
    found = [learning_rate(after.training, step) for step in range(job.first, job.steps)]
    assert found[0] == pytest.approx(rate / 4)
    assert found == sorted(found, reverse=True)
    for end in (found[-1], learning_rate(before.training, STEPS - 1)):
        assert end == pytest.approx(rate / 10, rel=0.01)


@pytest.mark.parametrize("rate", [1e-4, 6e-4, 4e-3])
def test_every_run_ends_at_a_tenth_of_its_peak(chosen: Setting, rate: float) -> None:
    jobs = planned(replace(chosen, rates=(rate,)), seeds=2)
    assert len(jobs) == len({job.name for job in jobs}) >= len(MODELS) + 4
    for job in jobs:
        assert chosen.run(job.overrides).training.min_learning_rate == pytest.approx(rate / 10), job.name


def test_ablation_ends_at_a_tenth_of_the_preset_peak(chosen: Setting) -> None:
    first, second = ablation_jobs(chosen, design("axes", 4)[0])
    peak = chosen.run(()).training.learning_rate
    assert chosen.run(first.overrides).training.learning_rate == peak
    for job in (first, second):
        assert chosen.run(job.overrides).training.min_learning_rate == pytest.approx(peak / 10)


def test_closest_pair_never_mixes_exact_figures_and_bounds() -> None:
    headline = {"ar": 100.0, "armd": 110.0, "any_order": 110.1, "mdlm": 150.0, "bd3lm": 130.0}
    assert closest_pair(headline) == ("ar", "armd")
    assert closest_pair({**headline, "bd3lm": 149.0}) == ("mdlm", "bd3lm")


def claimed(ppl_2: float, *armd: float) -> list[dict[str, Any]]:
    """Claims where ARMD has a run per value, AR one of 96 and MDLM one of 99."""

    def run(figure: str, value: float) -> dict[str, Any]:
        return {"held_out": {figure: {"value": value}, "strided_2": {"value": ppl_2}}}

    runs = {f"a{seed}": run("left_to_right", value) for seed, value in enumerate(armd)}
    names = {"armd": list(runs), "ar": ["b"], "mdlm": ["c"]}
    runs |= {"b": run("left_to_right", 96.0), "c": run("masked_diffusion", 99.0), "d": run("left_to_right", 100.0)}
    return claims({"runs": runs, "seeds": names, "strided": "d"})


def test_claims_hold_exactly_to_their_limits() -> None:
    assert [claim["holds"] for claim in claimed(109.9, 100.0)] == [False, True, True]
    assert [claim["holds"] for claim in claimed(110.1, 100.0)] == [False, True, False]


def test_claims_compare_means_over_seeds_and_show_their_spread() -> None:
    found = claimed(109.9, 100.0, 97.0)
    assert [claim["holds"] for claim in found] == [True, True, True]
    assert [claim["value"] for claim in found] == [98.5, 98.5, 109.9]
    line = claim_line(found[0])
    assert "ARMD's PPL_1 98.50 (mean of 2 seeds, standard deviation 2.12) against MDLM's bound 99.00 (one seed)" in line


def test_ablation_design_has_each_sensible_point_once() -> None:
    axes, full = design("axes", 4), design("full", 4)
    assert len(set(axes)) == len(axes) == 4 * 4 - 1 + 8
    assert len(set(full)) == len(full) == (4 * 4 - 1) * 9
    assert set(axes) < set(full)
    assert len({choice.name for choice in full}) == len(full)
    assert not [choice for choice in full if (choice.context, choice.layers) == ("none", 0)]


def test_every_ablation_run_is_a_sound_config_on_equal_tokens() -> None:
    chosen = setting("cpu", STEPS, [], None)
    pairs = [ablation_jobs(chosen, choice) for choice in design("axes", 4)]
    for jobs in zip(*pairs, strict=True):
        assert len({job.facts["tokens"] for job in jobs}) == 1
    assert all(second.after == first.name for first, second in pairs)


def test_ablation_table_marks_the_best_of_each_column() -> None:
    rows = []
    for choice, values in zip(design("axes", 4), [(10.0, 13.0, 14.0, 30.0), (11.0, 12.0, 15.0, 20.0)], strict=False):
        one, two, four, bound = ({"value": value} for value in values)
        before = {"parameters": 7, "training_flops_per_token": 3e6, "held_out": {"any_order": bound}}
        after = {"held_out": {"left_to_right": one, "strided_2": two, "strided_4": four}}
        rows.append(row(choice, before, after))
    text = markdown({"preset": "cpu"}, rows)
    assert [text.count(f"**{best}**") for best in ("10.00", "12.00", "14.00", "20.00")] == [1, 1, 1, 1]
    assert text.count("**") == 8


def test_each_model_keeps_the_rate_of_its_lowest_training_loss() -> None:
    chosen = replace(setting("cpu", STEPS, [], None), rates=parse_rates("4e-3,1e-3"))
    tried = trials(chosen)
    values = {"ar": (5.0, 6.0), "armd": (6.0, 5.0), "any_order": (1.0, 2.0), "mdlm": (2.0, 1.0), "bd3lm": (1.0, 2.0)}
    results = {
        job.name: {"train_loss": value}
        for name, jobs in tried.items()
        for job, value in zip(jobs.values(), values[name], strict=True)
    }
    found = best_rates(tried, results)
    assert found == {"ar": 1e-3, "armd": 4e-3, "any_order": 1e-3, "mdlm": 4e-3, "bd3lm": 1e-3}
    for name, rate in found.items():
        trial, run = tried[name][rate], equal_steps(chosen, name, rate)
        assert chosen.run(run.overrides).training.learning_rate == rate
        assert replace(trial, evaluations=run.evaluations) == run
        assert (trial.steps, trial.evaluations) == (STEPS, ())
    assert chosen.run(strided(chosen, found).overrides).training.learning_rate == 1e-3


def test_report_shows_losses_and_says_where_the_grid_ends() -> None:
    tried = {"ar": {"0.001": 3.0, "0.002": 2.0, "0.004": 4.0}, "mdlm": {"0.001": 3.0, "0.002": 4.0, "0.004": 2.5}}
    content = {"tried": tried, "rates": {"ar": 2e-3, "mdlm": 4e-3}}
    assert "**2.000**" in rates_table(content)
    assert edge_text(content) == "- MDLM: 0.004 is the edge of the grid; a higher one might do better still."
    content["rates"] = {"ar": 1e-3, "mdlm": 2e-3}
    assert edge_text(content) == "- AR: 0.001 is the edge of the grid; a lower one might do better still."


@pytest.mark.parametrize("text", ["", "a", "1e-3,,2e-3", "0", "-1e-3", "nan"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ArmdError, match="--rates"):
        parse_rates(text)


def test_changed_preset_is_another_setting(tmp_path: Path) -> None:
    chosen = setting("cpu", STEPS, [], None)
    for old, new, same in (("clip_grad: 1.0", "clip_grad: 0.5", False), ("every: 50", "every: 51", True)):
        file = tmp_path / "cpu.yaml"
        file.write_text(chosen.config.read_text().replace(old, new))
        other = replace(chosen, config=file)
        for make in (lambda s: equal_steps(s, "armd", RATE), lambda s: strided(s, RATES)):
            assert (make(chosen).settings() == make(other).settings()) == same


def test_presets_are_finite() -> None:
    assert {name: (sizes["windows"], sizes["workers"]) for name, sizes in SIZES.items()} == {
        "cpu": (480, 2),
        "gpu": (2048, 1),
    }
    assert SIZES["gpu"]["zero_shot_windows"] == 512
