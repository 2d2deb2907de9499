"""The parts that a network is cut into along its depth, one for each stage of a pipeline."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Stage:
    """Layers first to last - 1 of `num_layers`, at least one. The first stage embeds, the last one predicts."""

    first: int
    last: int
    num_layers: int

    @property
    def embeds(self) -> bool:
        return self.first == 0

    @property
    def predicts(self) -> bool:
        return self.last == self.num_layers

    def among(self, first: int, last: int) -> range:
        """Those of the layers first to last - 1 that are in this stage."""
        return range(max(first, self.first), min(last, self.last))


def whole(num_layers: int) -> Stage:
    """The network in one piece."""
    return Stage(0, num_layers, num_layers)


def equal_cuts(num_layers: int, stages: int) -> list[Stage]:
    """As many layers in each stage as in every other, one more in the first ones where that does not divide."""
    ends = [sum(num_layers // stages + (i < num_layers % stages) for i in range(count)) for count in range(stages + 1)]
    return [Stage(first, last, num_layers) for first, last in pairwise(ends)]


def fair_cuts(costs: list[float], stages: int) -> list[Stage]:
    """Stages whose dearest one costs as little as can be; of several such cuts the most even one.

    costs: of each layer, the embedding's in the first and the head's in the last one, in any unit. The others wait for
    the dearest stage in every micro-batch. Raises ValueError where there are fewer layers than stages.
    """
    count = len(costs)
    if count < stages:
        raise ValueError(f"{count} layers cannot be cut into {stages} stages of one layer at least")
    sums = [0.0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    # best[last]: (dearest stage, sum of squares, ends of the stages) of the layers before `last`.
    best = {last: (sums[last], sums[last] ** 2, (0, last)) for last in range(1, count + 1)}
    for stage in range(2, stages + 1):
        best = {
            last: min(
                _with_stage(best[first], first, last, sums[last] - sums[first]) for first in range(stage - 1, last)
            )
            for last in range(stage, count + 1)
        }
    ends = best[count][2]
    return [Stage(first, last, count) for first, last in pairwise(ends)]


def _with_stage(
    before: tuple[float, float, tuple[int, ...]], first: int, last: int, cost: float
) -> tuple[float, float, tuple[int, ...]]:
    dearest, squares, ends = before
    return max(dearest, cost), squares + cost**2, (*ends, last)
