"""Parameters as Adam takes them: in groups of one learning rate and one weight decay."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from armd_dist.model.config import ModelConfig
from armd_dist.model.parametrization import rate_multiplier


def parameter_groups(
    named: Iterable[tuple[str, Tensor, int]],
    config: ModelConfig,
    weight_decay: float,
    of_parts: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for torch's AdamW, each with `multiplier`, by which the schedule's rate is multiplied.

    named: (name in the whole network, parameter, its dimensions); of_parts: what is multiplied on top, by how the names
    of a part's parameters begin. Matrices decay, norms and biases do not. AdamW
    multiplies the decay by the group's rate, so it is divided by the multiplier: a step takes the same share of every
    matrix at every width (our choice, and what the package of muP's authors does).
    """
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter, dims in named:
        of_part = next((rate for part, rate in (of_parts or {}).items() if name.startswith(part)), 1.0)
        groups.setdefault((dims > 1, rate_multiplier(name, dims, config) * of_part), []).append(parameter)
    return [
        {"params": groups[key], "multiplier": key[1], "weight_decay": weight_decay / key[1] if key[0] else 0.0}
        for key in sorted(groups, reverse=True)
    ]


def set_learning_rate(groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
    """Gives each group its rate. learning_rate: the schedule's."""
    for group in groups:
        group["lr"] = learning_rate * group["multiplier"]
