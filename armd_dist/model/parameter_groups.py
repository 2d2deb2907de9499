"""Parameters as Adam takes them: in groups of one learning rate and one weight decay."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from armd_dist.model.config import ModelConfig
from armd_dist.model.parametrization import rate_multiplier


def parameter_groups(
    named: Iterable[tuple[str, Tensor, int]], config: ModelConfig, weight_decay: float, parts: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Groups for torch's AdamW, each with `multiplier`, by which the schedule's rate is multiplied.

    named: (name in the whole network, parameter, its dimensions); parts: how many times the rate a part of the network
    has, by the beginning of its names. Matrices decay, norms and biases do not. AdamW multiplies the decay by the
    group's rate, so it is divided by what the width makes of that: a step takes the same share of a matrix at every
    width (our choice, and what the package of muP's authors does).
    """
    groups: dict[tuple[bool, float, float], list[Tensor]] = {}
    for name, parameter, dims in named:
        part = next((rate for beginning, rate in parts.items() if name.startswith(beginning)), 1.0)
        groups.setdefault((dims > 1, rate_multiplier(name, dims, config), part), []).append(parameter)
    return [
        {"params": groups[key], "multiplier": width * part, "weight_decay": weight_decay / width if decays else 0.0}
        for key in sorted(groups, reverse=True)
        for decays, width, part in (key,)
    ]


def set_learning_rate(groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    """Gives each group its rate. learning_rate: the schedule's."""
    for group in groups:
        group["lr"] = learning_rate * group["multiplier"]
