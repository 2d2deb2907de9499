"""Whose turn it is: which dataset of a mixture gives sample i, in closed form, under weights that change."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np

HALF = Fraction(1, 2)
BELOW_ONE = 1 - Fraction(1, 1 << 20)


class Branch(NamedTuple):
    """Datasets [low, high) of the tree that shares out the turns: those below `middle` stand to its left."""

    low: int
    middle: int
    high: int


@dataclass(frozen=True)
class Line:
    """Turns of a branch that go left, while weights stay: floor((intercept + slope * turns) / scale)."""

    intercept: int
    slope: int
    scale: int

    def left_of(self, turns: int) -> int:
        return (self.intercept + self.slope * turns) // self.scale


class Turns:
    """Shares samples out to datasets by weight, as evenly as whole samples allow.

    Datasets are the leaves of a balanced binary tree. Each branch sends the nearest whole number of its turns to the
    left: a straight line, rounded, so that any sample's dataset, and how many turns that one had before, take one
    rounding for each level of the tree. There is nothing to draw, store or replay.

    After any number of samples each dataset's count is within log2(datasets) / 2 of its weights' share. Where weights
    change, each branch's line starts anew from the counts reached and aims at the shares of the whole past.
    Exact: integers of any size, fractions of the weights as they are written.
    """

    def __init__(self, weights: Sequence[Mapping[int, float]]) -> None:
        """`weights[d]`: {first sample: weight of dataset d from there on}, each with sample 0.

        `ValueError` where a weight is negative, or at some sample all are zero.
        """
        self.size = len(weights)
        self.starts = sorted({0, *(start for points in weights for start in points)})
        self._root = None if self.size == 1 else _branch(0, self.size)
        self._lines: list[dict[Branch, Line]] = []
        targets, counts = [Fraction(0)] * self.size, [0] * self.size
        for number, start in enumerate(self.starts):
            shares = _shares(weights, start)
            if number:
                before, length = _shares(weights, self.starts[number - 1]), start - self.starts[number - 1]
                targets = [target + share * length for target, share in zip(targets, before, strict=True)]
                counts = self.counts(start)
            lines: dict[Branch, Line] = {}
            if self._root is not None:
                _draw_lines(self._root, shares, targets, counts, lines)
            self._lines.append(lines)

    def turn(self, sample: int) -> tuple[int, int]:
        """The dataset of sample `sample`, and how many samples before it were that dataset's."""
        lines = self._lines[bisect_right(self.starts, sample) - 1]
        branch, dataset, turns = self._root, 0, sample
        while branch is not None:
            left = lines[branch].left_of(turns)
            if lines[branch].left_of(turns + 1) > left:
                dataset, turns, branch = branch.low, left, _branch(branch.low, branch.middle)
            else:
                dataset, turns, branch = branch.middle, turns - left, _branch(branch.middle, branch.high)
        return dataset, turns

    def turns(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`turn` of many samples: int [k] in, datasets and turns, int64 [k] each, out."""
        if self._root is None:
            return np.zeros(len(samples), dtype=np.int64), np.asarray(samples, dtype=np.int64)
        found = np.array([self.turn(sample) for sample in samples.tolist()], dtype=np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def counts(self, samples: int) -> list[int]:
        """How many of the first `samples` samples are each dataset's."""
        lines = self._lines[bisect_right(self.starts, max(samples - 1, 0)) - 1]
        counts = [0] * self.size
        waiting = [(self._root, 0, samples)]
        while waiting:
            branch, dataset, turns = waiting.pop()
            if branch is None:
                counts[dataset] = turns
                continue
            left = lines[branch].left_of(turns)
            waiting.append((_branch(branch.low, branch.middle), branch.low, left))
            waiting.append((_branch(branch.middle, branch.high), branch.middle, turns - left))
        return counts


def _branch(low: int, high: int) -> Branch | None:
    """The branch over these datasets; None where it is a single one."""
    return Branch(low, (low + high) // 2, high) if high - low > 1 else None


def _shares(weights: Sequence[Mapping[int, float]], sample: int) -> list[Fraction]:
    """Each dataset's share at `sample`; they sum to 1."""
    # str: 0.1 means a tenth, not the nearest binary fraction.
    now = [Fraction(str(points[max(start for start in points if start <= sample)])) for points in weights]
    if min(now) < 0 or sum(now) == 0:
        raise ValueError(f"weights from sample {sample} on: {[float(weight) for weight in now]}")
    return [weight / sum(now) for weight in now]


def _draw_lines(
    branch: Branch, shares: list[Fraction], targets: list[Fraction], counts: list[int], lines: dict[Branch, Line]
) -> None:
    """The line of this branch and of all below, from where the counts stand."""
    low, middle, high = branch
    together = sum(shares[low:high], Fraction(0))
    slope = sum(shares[low:middle], Fraction(0)) / together if together else Fraction(0)
    turns, left = sum(counts[low:high]), sum(counts[low:middle])
    # What the left should have had by now, given the turns that the branch has had: rounded, it must be what it had.
    wanted = sum(targets[low:middle], Fraction(0)) + slope * (turns - sum(targets[low:high], Fraction(0)))
    level = min(max(wanted + HALF, Fraction(left)), left + BELOW_ONE)
    intercept = level - slope * turns
    scale = math.lcm(intercept.denominator, slope.denominator)
    lines[branch] = Line(int(intercept * scale), int(slope * scale), scale)
    for child in (_branch(low, middle), _branch(middle, high)):
        if child is not None:
            _draw_lines(child, shares, targets, counts, lines)
