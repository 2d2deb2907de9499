"""Exact likelihood under a fixed order. For strided orders PPL_S is the perplexity of the very sampler, not a bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from armd_dist.model.armd import ARMD
from armd_dist.model.layout import lay_out
from armd_dist.model.network import Network
from armd_dist.objectives.documents import tokens_before
from armd_dist.objectives.likelihood import MicroBatch, token_nll
from armd_dist.orders.schemes import strided
from armd_dist.orders.strided import num_heads
from data_pipeline.stream import TokenStream

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean nats per token, with a 95 % interval by bootstrap over windows.

    heads: of the tokens generated one by one at the start; parallel: of those generated S at a time (None for S = 1).
    """

    value: float
    low: float
    high: float
    tokens: int
    heads: float
    parallel: float | None
    steps: int


def evaluate_strided(
    model: ARMD,
    stream: TokenStream,
    streams: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    windows: int | None = None,
    within_document: bool = False,
) -> Perplexity:
    """PPL_S over the first `windows` windows, or all. `progress` is told those done. Raises ValueError for a bad S.

    within_document: a token sees those of its own document alone, under the order of the whole window.
    """
    windows = windows or stream.num_windows
    eos_id = stream.manifest.eos_id if within_document else None
    order = strided(stream.sequence_length, streams)
    positions, blocks = torch.from_numpy(order.position), torch.from_numpy(order.block)
    nll = torch.empty(windows, stream.sequence_length, dtype=torch.float64)
    for start in range(0, windows, batch_size):
        tokens = torch.from_numpy(stream.windows(np.arange(start, min(start + batch_size, windows))))
        nll[start : start + len(tokens)] = window_nll(model, tokens, positions, blocks, stream.manifest.bos_id, eos_id)
        if progress is not None:
            progress(len(tokens))
    heads = blocks <= num_heads(stream.sequence_length, streams)
    # A single stream has no parallel phase: all of it is generated token by token.
    return _summary(nll, heads if streams > 1 else torch.ones_like(heads), steps=int(blocks.max()))


@torch.no_grad()
def window_nll(
    model: ARMD, windows: Tensor, positions: Tensor, blocks: Tensor, bos_id: int, eos_id: int | None = None
) -> Tensor:
    """Nats of every token, [windows, tokens] in the order's storage; positions, blocks: [tokens].

    eos_id: the end of a document, for attention within documents; None: across.
    """
    revealed = windows[:, positions - 1]
    before = None if eos_id is None else tokens_before(windows, eos_id)[:, positions - 1]
    layout = lay_out(revealed, positions.expand_as(revealed), blocks.expand_as(revealed), bos_id, before)
    return batch_nll(model, MicroBatch(layout, revealed))


def batch_nll(model: Network, batch: MicroBatch) -> Tensor:
    """Nats of every token, [batch, rows] on the host, computed where the model is."""
    there = batch.to(next(model.parameters()).device)
    return token_nll(model, there.layout, there.targets).t().cpu()


def _summary(nll: Tensor, heads: Tensor, steps: int) -> Perplexity:
    low, high = bootstrap(nll.mean(dim=1).numpy())
    return Perplexity(
        value=math.exp(nll.mean()),
        low=low,
        high=high,
        tokens=nll.numel(),
        heads=math.exp(nll[:, heads].mean()),
        parallel=None if heads.all() else math.exp(nll[:, ~heads].mean()),
        steps=steps,
    )


def bootstrap(per_window: np.ndarray) -> tuple[float, float]:
    """A 95 % interval of exp(mean), windows of equal length resampled with a fixed seed."""
    generator = np.random.default_rng(0)
    draws = generator.integers(len(per_window), size=(BOOTSTRAP_DRAWS, len(per_window)))
    low, high = np.quantile(np.exp(per_window[draws].mean(axis=1)), [0.025, 0.975])
    return float(low), float(high)
