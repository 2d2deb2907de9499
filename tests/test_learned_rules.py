"""What is said about settings of a learned order that do not fit together."""

from typing import Any

import pytest
from settings import tree

from armd_dist.config_rules import cross_problems
from armd_dist.run import Run

SOUND = {"network": "denoiser", "learned_order": True}


def told(model: dict[str, Any], **sections: dict[str, Any]) -> list[str]:
    settings = tree(**sections)
    return [
        str(problem) for problem in cross_problems(Run.model_validate(settings | {"model": settings["model"] | model}))
    ]


@pytest.mark.parametrize("model", [SOUND, SOUND | {"order_centre": 1, "order_spread": 0}, {"network": "denoiser"}])
def test_what_fits(model: dict[str, Any]) -> None:
    assert told(model) == []


@pytest.mark.parametrize("centre", [0.7, 0.5])
def test_c1_is_above_c2(centre: float) -> None:
    [said] = told(SOUND | {"order_centre": centre, "order_spread": 0.7})
    assert said.startswith(f"model.order_spread=0.7: is not below model.order_centre={centre}")


def test_all_that_a_learned_order_cannot_have_is_told_at_once() -> None:
    said = told(
        SOUND | {"network": "armd"},
        data={"path": "data/train", "sequence_length": 128, "attention": "within_document"},
        orders={"block_length": 4},
        parallel={"pipeline": 2},
    )
    paths = (
        "model.learned_order=True",
        "orders.block_length=4",
        "data.attention=within_document",
        "parallel.pipeline=2",
    )
    for path in paths:
        assert any(each.startswith(f"{path}: ") and "learned_order" in each for each in said), (path, said)


def test_rates_of_heads_that_are_not_there() -> None:
    said = told({}, training={"steps": 100, "warmup_steps": 10, "global_batch_size": 32, "forward_order_rate": 0.5})
    assert any(each.startswith("training.forward_order_rate=0.5: is of a head that the network") for each in said)
