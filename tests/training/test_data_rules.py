"""Settings of data that make no sense together are refused by name, all at once."""

from typing import Any

import pytest

from armd_dist.config import check_tree
from armd_dist.errors import ConfigError
from armd_dist.run import Run


def tree(**data: Any) -> dict[str, Any]:
    return {
        "run": {"dir": "unused"},
        "model": {"vocab_size": 400, "max_sequence_length": 32},
        "data": {"sequence_length": 32, **data},
        "training": {"steps": 10, "warmup_steps": 0, "precision": "fp32"},
    }


def mixture(*weights: Any) -> dict[str, Any]:
    return tree(mixture=[{"path": name, "weight": weight} for name, weight in zip("abc", weights, strict=False)])


BAD = {
    "nothing": (tree(), "data.path=: is missing; name a folder that armd data build wrote, or several by data.mixture"),
    "both": (tree(path="x", mixture=[{"path": "a", "weight": 1}]), "data.path=x: stands beside data.mixture"),
    "none": (tree(mixture=[]), "data.mixture=[]: list should have at least 1 item"),
    "twice": (
        tree(mixture=[{"path": "a", "weight": 1}, {"path": "a", "weight": 2}]),
        "data.mixture.1.path=a: is in the mixture already; name it once",
    ),
    "zero": (mixture(1, 0), "data.mixture.1.weight=0.0: never reads this dataset; use a positive weight, or leave"),
    "negative": (mixture(-2, 1), "data.mixture.0.weight=-2.0: is negative; use a positive weight"),
    "negative_later": (mixture({0: 1, 9: -1}, 1), "data.mixture.0.weight={0: 1.0, 9: -1.0}: is negative"),
    "infinite": (mixture(float("inf")), "data.mixture.0.weight.0=inf: input should be a finite number"),
    "word": (mixture("much"), "data.mixture.0.weight.0=much: input should be a valid number"),
    "no_start": (mixture({5: 1}), "data.mixture.0.weight={5: 1.0}: says nothing of the first samples"),
    "before_0": (mixture({0: 1, -3: 1}), "data.mixture.0.weight={0: 1.0, -3: 1.0}: starts before sample 0"),
    "nothing_left": (mixture({0: 1, 5: 0}, {0: 1, 9: 0, 20: 1}), "leaves no dataset to read from sample 9 on"),
    "no_weight": (tree(mixture=[{"path": "a"}]), "data.mixture.0.weight=: is missing"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_settings(name: str) -> None:
    settings, message = BAD[name]
    with pytest.raises(ConfigError) as error:
        check_tree(settings)
    assert message in str(error.value)
    assert len(error.value.problems) == 1


def test_a_number_is_a_schedule_of_one_point() -> None:
    run = check_tree(mixture(2, {0: 1, 100: 0, "200": 3}))
    assert [dataset.weight for dataset in run.data.datasets] == [{0: 2}, {0: 1, 100: 0, 200: 3}]
    assert Run.model_validate(run.model_dump(mode="json")) == run
    assert [(one.path, one.weight) for one in check_tree(tree(path="x")).data.datasets] == [("x", {0: 1})]
