"""A moving average of the weights: smoother than the weights of any one step, and often the better model."""

from collections.abc import Iterable

import torch
from torch import Tensor


class Average:
    """fp32, of the values that this process saves, where the masters lie: 4 bytes for each.

    After optimizer step n (from 1) average += (1 - d) (weight - average), with d = min(decay, (1 + n) / (10 + n)): the
    weights that it started from count for little after a few steps, however slow the decay (our choice, and what
    TensorFlow's ExponentialMovingAverage does with num_updates). As d follows from n there is no other state.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.values: dict[str, Tensor] = {}

    def start(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Begins with these values, {name: flat fp32}."""
        self.values = {name: weight.detach().clone() for name, weight in weights}

    @torch.no_grad()
    def follow(self, weights: Iterable[tuple[str, Tensor]], step: int) -> None:
        """Takes up the weights that optimizer step `step` has made, in place."""
        decay = min(self.decay, (1 + step) / (10 + step))
        found = dict(weights)
        lerp = torch._foreach_lerp_  # type: ignore[reportPrivateImportUsage]
        lerp([self.values[name] for name in found], list(found.values()), 1 - decay)
