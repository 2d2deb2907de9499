"""The learning rate by hand."""

import math

import pytest

from armd_dist.training.config import TrainingConfig
from armd_dist.training.schedule import learning_rate


def config(decay: str) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"steps": 110, "warmup_steps": 10, "learning_rate": 1.0, "min_learning_rate": 0.1, "decay": decay}
    )


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
def test_warm_up_is_linear_and_never_zero(decay: str) -> None:
    assert [learning_rate(config(decay), step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])


def test_decay_after_warm_up() -> None:
    assert learning_rate(config("constant"), 109) == 1.0
    assert learning_rate(config("linear"), 60) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(config("cosine"), 60) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2)
    assert learning_rate(config("cosine"), 110) == pytest.approx(0.1)
