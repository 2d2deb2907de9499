"""Upper bounds of perplexity: over random orders for the two-stream network, over maskings for the denoiser."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from armd_dist.evaluation.likelihood import batch_nll, bootstrap
from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser
from armd_dist.objectives.likelihood import ordered_batch
from armd_dist.objectives.masked_diffusion import draw_masking, masked_batch
from armd_dist.orders.schemes import any_order
from data_pipeline.stream import TokenStream

SEED = 0  # evaluations of equal models are equal


@dataclass(frozen=True)
class Bound:
    """exp of the mean nats per token over windows and draws, with a 95 % interval by bootstrap over windows.

    draws: random orders, or maskings, of each window; importance: exp of the tighter bound
    -log (1 / draws) sum p per token, None for a denoiser, whose draws are no probabilities of the text.
    """

    value: float
    low: float
    high: float
    tokens: int
    draws: int
    importance: float | None


def evaluate_any_order(
    model: ARMD,
    stream: TokenStream,
    draws: int,
    windows: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    within_document: bool = False,
) -> Bound:
    """The bound of the first `windows` windows under `draws` uniform random orders each.

    within_document: as in `evaluate_strided`.
    """
    eos_id = stream.manifest.eos_id if within_document else None

    def nats(tokens: Tensor, samples: list[int]) -> Tensor:
        orders = [any_order(tokens.shape[1], np.random.default_rng((SEED, sample))) for sample in samples]
        return batch_nll(model, ordered_batch(tokens, orders, stream.manifest.bos_id, eos_id=eos_id))

    return _summary(_draw(nats, stream, draws, windows, batch_size, progress), stream, importance=True)


def evaluate_denoiser(
    model: Denoiser,
    stream: TokenStream,
    block_length: int | None,
    draws: int,
    windows: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    within_document: bool = False,
) -> Bound:
    """The NELBO of the first `windows` windows, from `draws` maskings each; block_length: None for the whole text.

    within_document: as in `evaluate_strided`.
    """
    window = block_length or stream.sequence_length
    eos_id = stream.manifest.eos_id if within_document else None

    def nats(tokens: Tensor, samples: list[int]) -> Tensor:
        masked = draw_masking(tokens.shape[1], window, SEED, samples)
        batch = masked_batch(tokens, masked, window, stream.manifest.bos_id, eos_id=eos_id)
        assert batch.weights is not None
        return batch_nll(model, batch) * batch.weights

    return _summary(_draw(nats, stream, draws, windows, batch_size, progress), stream, importance=False)


@torch.no_grad()
def _draw(
    nats: Callable[[Tensor, list[int]], Tensor],
    stream: TokenStream,
    draws: int,
    windows: int,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> Tensor:
    """Nats of each window under each draw, [windows, draws]. Draw k of window w is sample w * draws + k."""
    sums = torch.empty(windows * draws, dtype=torch.float64)
    for start in range(0, len(sums), batch_size):
        samples = np.arange(start, min(start + batch_size, len(sums)))
        tokens = torch.from_numpy(stream.windows(samples // draws))
        sums[samples] = nats(tokens, samples.tolist()).double().sum(1)
        if progress is not None:
            progress(len(samples))
    return sums.view(windows, draws)


def _summary(sums: Tensor, stream: TokenStream, importance: bool) -> Bound:
    windows, draws = sums.shape
    length = stream.sequence_length
    low, high = bootstrap(sums.mean(1).numpy() / length)
    tighter = -(torch.logsumexp(-sums, dim=1) - math.log(draws)).mean().item() / length
    return Bound(
        value=math.exp(sums.mean() / length),
        low=low,
        high=high,
        tokens=windows * length,
        draws=draws,
        importance=math.exp(tighter) if importance else None,
    )
