"""What the benchmarks would run, without running it: equal size, equal tokens, equal FLOPs, and orders that differ."""

from dataclasses import replace

import pytest
from ablation import design, markdown, row
from ablation import jobs as ablation_jobs
from models import HEADLINE, MODELS, Setting, setting
from quality import best_rates, closest_pair, equal_flops, equal_steps, parse_rates, rate_search, strided
from quality_report import claims

from armd_dist.training.schedule import learning_rate

STEPS = 200


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def chosen(request: pytest.FixtureRequest) -> Setting:
    return setting(request.param, STEPS, [], None)


def test_models_have_equal_parameters_and_tokens(chosen: Setting) -> None:
    facts = {name: equal_steps(chosen, name).facts for name in MODELS}
    armd = facts["armd"]
    assert facts["ar"]["parameters"] == facts["any_order"]["parameters"] == armd["parameters"]
    for name in ("mdlm", "bd3lm"):
        assert abs(facts[name]["parameters"] - armd["parameters"]) <= 2e-4 * armd["parameters"]
    assert {found["tokens"] for found in facts.values()} == {armd["tokens"]}


def test_second_runs_spend_what_ar_spends(chosen: Setting) -> None:
    flops = {
        name: job.facts["training_flops_per_token"] * job.facts["tokens"] for name, job in equal_flops(chosen).items()
    }
    for name, spent in flops.items():
        assert spent == pytest.approx(flops["ar"], rel=0.03), name
    assert equal_flops(chosen)["ar"] == equal_steps(chosen, "ar")
    assert equal_flops(chosen)["armd"].steps < STEPS


def test_shorter_run_is_the_same_schedule_scaled(chosen: Setting) -> None:
    long, short = equal_steps(chosen, "armd"), equal_flops(chosen)["armd"]
    share = short.steps / long.steps
    for before, after in ((chosen.run(long.overrides), chosen.run(short.overrides)),):
        assert after.orders.left_to_right_steps == pytest.approx(share * before.orders.left_to_right_steps, abs=1)
        assert after.orders.progressive_steps == pytest.approx(share * before.orders.progressive_steps, abs=1)
        assert after.training.warmup_steps == pytest.approx(share * before.training.warmup_steps, abs=1)
        assert after.orders.strided_from is None


def test_seeds_change_the_seed_alone(chosen: Setting) -> None:
    first, second = (chosen.run(equal_steps(chosen, "armd", seed).overrides) for seed in (0, 1))
    changed = second.training.model_copy(update={"seed": 0})
    assert second.training.seed == 1
    assert second.model_copy(update={"training": changed}) == first


def test_strided_continuation_decays_from_a_quarter_of_the_peak(chosen: Setting) -> None:
    job, of = strided(chosen), equal_steps(chosen, "armd")
    before, after = chosen.run(of.overrides), chosen.run(job.overrides)
    assert (job.after, job.first, job.steps) == ("armd", STEPS, STEPS + 30)
    assert after.orders.strided_from == STEPS
    assert after.model == before.model
    rates = [learning_rate(after.training, step) for step in range(job.first, job.steps)]
    assert rates[0] == pytest.approx(before.training.learning_rate / 4)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.02 * before.training.learning_rate + before.training.min_learning_rate
    assert learning_rate(before.training, STEPS - 1) < 0.01 * before.training.learning_rate + 3e-4


def test_closest_pair_never_mixes_exact_figures_and_bounds() -> None:
    headline = {"ar": 100.0, "armd": 110.0, "any_order": 110.1, "mdlm": 150.0, "bd3lm": 130.0}
    assert closest_pair(headline) == ("ar", "armd")
    assert closest_pair({**headline, "bd3lm": 149.0}) == ("mdlm", "bd3lm")


def test_claims_hold_exactly_to_their_limits() -> None:
    def runs(ppl_2: float) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        exact = {"left_to_right": {"value": 100.0}, "strided_2": {"value": ppl_2}}
        return {
            "ar": {"held_out": {"left_to_right": {"value": 96.0}}},
            "armd": {"held_out": exact},
            "mdlm": {"held_out": {"masked_diffusion": {"value": 99.0}}},
            "armd-strided": {"held_out": exact},
        }

    assert [claim["holds"] for claim in claims({"runs": runs(109.9)})] == [False, True, True]
    assert [claim["holds"] for claim in claims({"runs": runs(110.1)})] == [False, True, False]


def test_ablation_design_has_each_sensible_point_once() -> None:
    axes, full = design("axes", 4), design("full", 4)
    assert len(set(axes)) == len(axes) == 3 * 4 - 1 + 8
    assert len(set(full)) == len(full) == (3 * 4 - 1) * 9
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


def test_each_model_keeps_the_rate_that_did_best_for_it() -> None:
    chosen = setting("cpu", STEPS, [], None)
    search = rate_search(chosen, parse_rates("1e-3,4e-3"))
    values = {"ar": (5.0, 6.0), "armd": (6.0, 5.0), "any_order": (1.0, 2.0), "mdlm": (2.0, 1.0), "bd3lm": (1.0, 2.0)}
    results = {
        job.name: {"held_out": {HEADLINE[name]: {"value": value}}}
        for name, jobs in search.items()
        for job, value in zip(jobs.values(), values[name], strict=True)
    }
    found = best_rates(search, results)
    assert found == {"ar": 1e-3, "armd": 4e-3, "any_order": 1e-3, "mdlm": 4e-3, "bd3lm": 1e-3}
    tuned = replace(chosen, rates=found)
    rates = {name: chosen.run(equal_steps(tuned, name).overrides).training.learning_rate for name in MODELS}
    assert rates == found
    assert chosen.run(strided(tuned).overrides).training.learning_rate == 1e-3
    assert rate_search(chosen, parse_rates("")) == {}
