"""A moving average of the weights: smoother than the weights of any one step, and often the better model."""

from collections.abc import Iterable
from dataclasses import replace

import torch

from armd_dist.checkpoint.pieces import Piece


class Average:
    """fp32, of the values that this process saves, where the masters lie: 4 bytes for each. `pieces`: as `ema/NAME`.

    After optimizer step n (from 1) average += (1 - d) (weight - average), with d = min(decay, (1 + n) / (10 + n)): the
    weights that it started from count for little after a few steps, however slow the decay (our choice, and what
    TensorFlow's ExponentialMovingAverage does with num_updates). As d follows from n there is no other state.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.pieces: dict[str, Piece] = {}

    def start(self, weights: Iterable[tuple[str, Piece]]) -> None:
        """Begins with the values of these pieces, `weight/NAME`."""
        self.pieces = {_key(name): replace(each, values=each.values.detach().clone()) for name, each in weights}

    @torch.no_grad()
    def follow(self, weights: Iterable[tuple[str, Piece]], step: int) -> None:
        """Takes up the weights that optimizer step `step` has made, in place."""
        decay = min(self.decay, (1 + step) / (10 + step))
        found = {_key(name): piece.values for name, piece in weights}
        lerp = torch._foreach_lerp_  # type: ignore[reportPrivateImportUsage]
        lerp([self.pieces[key].values for key in found], list(found.values()), 1 - decay)


def _key(name: str) -> str:
    return f"ema/{name.removeprefix('weight/')}"
