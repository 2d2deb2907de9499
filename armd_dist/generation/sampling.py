"""From logits to tokens. A row's tokens depend on its own logits and its own random numbers, and on no other row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from the model's distribution at its place.

    First the repetition penalty, then temperature (0 takes the likeliest token), then top_k, top_p and min_p (all
    optional) cut the tail. repetition_penalty: positive logits of tokens that the row can see are divided by it,
    negative ones multiplied (Keskar et al. 2019); those of its own block it cannot see. min_p: tokens of less than
    this share of the likeliest one's probability are left out (Nguyen et al. 2024).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: use a number from 0 (greedy) up")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: use at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: use a number above 0 and up to 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: use a number from 0 to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty={self.repetition_penalty}: use a number above 0; 1 changes nothing")


def draw_uniforms(seeds: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """For each row `counts` numbers in [0, 1) from its seed alone, float64 on the CPU: the same on every device."""
    made = [torch.Generator().manual_seed(seed) for seed in seeds]
    return [torch.rand(n, generator=g, dtype=torch.float64) for g, n in zip(made, counts, strict=True)]


def sample(logits: Tensor, sampling: Sampling, uniforms: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities under the model itself (temperature 1, nothing cut), each [rows, batch].

    logits: [rows, batch, vocab]; uniforms: [rows, batch] in [0, 1), one number a token; seen: [batch, vocab], true for
    the tokens that the penalty falls on. Every row is drawn on its own: that is what a block's independence means.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = wide.log_softmax(-1)
    if seen is not None and sampling.repetition_penalty != 1:
        penalty = sampling.repetition_penalty
        wide = torch.where(seen, torch.where(wide > 0, wide / penalty, wide * penalty), wide)
    if sampling.temperature == 0:
        tokens = wide.argmax(-1)
    else:
        tokens = _draw(_cut_tail(wide / sampling.temperature, sampling), uniforms)
    return tokens, log_probabilities.gather(-1, tokens[..., None])[..., 0]


def _draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the cumulative probability first exceeds the uniform number, in float64."""
    sums = logits.to(torch.float64).softmax(-1).cumsum(-1)
    total = sums[..., -1:]
    # Below the total even where rounding would reach it: then a token without probability is never taken.
    at = torch.minimum(uniforms[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, at.contiguous(), right=True)[..., 0]


def _cut_tail(logits: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        before[..., 0] = -1.0  # the likeliest token stays, however small a top_p is
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    if sampling.min_p:
        # A ratio of probabilities is a difference of logits, whatever the other cuts have left out.
        least = logits.amax(-1, keepdim=True) + math.log(sampling.min_p)
        logits = logits.masked_fill(logits < least, float("-inf"))
    return logits
