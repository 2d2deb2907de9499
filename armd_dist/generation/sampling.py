"""From logits to tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """temperature 0 takes the likeliest token; top_k and top_p (both optional) cut the tail before sampling."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: use a number from 0 (greedy) up")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k}: use at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: use a number above 0 and up to 1")


def sample(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities under the model itself (temperature 1, nothing cut), each [rows, batch].

    logits: [rows, batch, vocab]. Every row is drawn on its own: that is what a block's independence means.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_probabilities = wide.log_softmax(-1)
    if sampling.temperature == 0:
        tokens = wide.argmax(-1)
    else:
        kept = _cut_tail(wide / sampling.temperature, sampling)
        probabilities = kept.softmax(-1).flatten(0, 1)
        tokens = torch.multinomial(probabilities, 1, generator=generator).view(wide.shape[:-1])
    return tokens, log_probabilities.gather(-1, tokens[..., None])[..., 0]


def _cut_tail(logits: Tensor, sampling: Sampling) -> Tensor:
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= sampling.top_p)
        logits = logits.masked_fill(cut, float("-inf"))
    return logits
