"""LoMDM against MDLM: what would be run, and what is made of it."""

import pytest
from lomdm import TITLES, differences, jobs, markdown, verdict
from models import Setting, setting

STEPS = 200


@pytest.fixture(scope="module", params=["cpu", "gpu"])
def chosen(request: pytest.FixtureRequest) -> Setting:
    return setting(request.param, STEPS, [], None)


def test_equal_steps_and_equal_flops(chosen: Setting) -> None:
    found = jobs(chosen, seed=1)
    spent = {name: job.facts["training_flops_per_token"] * job.facts["tokens"] for name, job in found.items()}
    assert found["mdlm"].steps == found["lomdm"].steps == STEPS
    assert spent["lomdm_flops"] == pytest.approx(spent["mdlm"], rel=0.02)
    assert spent["lomdm"] > 2.3 * spent["mdlm"], "two passes with gradients, one without, and the heads"


def test_both_have_the_same_denoiser_and_data(chosen: Setting) -> None:
    mdlm, lomdm = (chosen.run(jobs(chosen, 1)[name].overrides) for name in ("mdlm", "lomdm"))
    assert lomdm.model.model_copy(update={"learned_order": False}) == mdlm.model
    assert (lomdm.training, lomdm.orders) == (mdlm.training, mdlm.orders)
    assert mdlm.training.seed == 1


def test_seeds_must_agree() -> None:
    assert "one seed" in verdict([-0.2])
    assert verdict([-0.2, -0.1]).endswith("below MDLM's with every seed")
    assert verdict([0.2, 0.1]).endswith("above MDLM's with every seed")
    assert verdict([-0.2, 0.1]).endswith("no difference that seeds agree on")


def test_differences_are_of_the_same_seed() -> None:
    common = {"steps": 1, "parameters": 1, "flops": 1.0, "draw_error": 0.0, "order_form_nats": None}
    rows = [
        {"model": name, "seed": seed, "nats": 5.0 + seed + 0.1 * number, **common}
        for number, name in enumerate(TITLES)
        for seed in (0, 1)
    ]
    found = differences(rows)
    assert found["lomdm"] == pytest.approx([0.1, 0.1])
    assert found["lomdm_flops"] == pytest.approx([0.2, 0.2])
    assert "LoMDM, equal steps: +0.1000 nats a token" in markdown({}, rows)
