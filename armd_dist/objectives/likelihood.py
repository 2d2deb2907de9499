"""The likelihood, exact or bounded, as a mean of -log p over tokens; a micro-batch says of which and how weighted.

ARMD, AR, masked and block diffusion on the two-stream network differ in the order alone: one forward pass gives every
conditional of every block. For iid masking times the unweighted mean is the discrete-time masked-diffusion NELBO, and
left to right it is the AR loss (derived). The denoiser sees one masking a pass, and weights make its mean the NELBO.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from armd_dist.model.denoiser import DenoiserLayout
from armd_dist.model.layers import Layers
from armd_dist.model.layout import Layout, lay_out
from armd_dist.model.network import Network
from armd_dist.model.shapes import Ids, Logits, Scores, Weights
from armd_dist.objectives.documents import tokens_before
from armd_dist.orders.order import Order


class Loss(NamedTuple):
    """objective: what is minimised; nll: nats per token, or their bound, what is reported; figures: what else is, of
    which the mean over all texts means something. Scalars."""

    objective: Tensor
    nll: Tensor
    figures: dict[str, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """What one forward pass of one process works on.

    targets: [batch, rows] in the layout's storage order; weights: [batch, rows] of their nats, None for 1 each;
    first_sample: the global number of its first sample, which keys dropout.
    """

    layout: Layout | DenoiserLayout
    targets: Ids
    weights: Weights | None = None
    first_sample: int = 0

    def to(self, device: object) -> "MicroBatch":
        weights = None if self.weights is None else self.weights.to(device)  # type: ignore[call-overload]
        targets = self.targets.to(device)  # type: ignore[call-overload]
        return MicroBatch(self.layout.to(device), targets, weights, self.first_sample)

    def loss(self, model: Network, z_loss: float = 0.0) -> Loss:
        """`loss_of` the model's own logits."""
        return self.loss_of(model(self.layout), model.layers, z_loss)

    def loss_of(self, logits: Logits, layers: Layers, z_loss: float = 0.0) -> Loss:
        """The mean over all tokens. `z_loss` times the mean of log(sum exp logits)^2 keeps the logits near zero.

        logits: [rows, batch, vocab of this process], those of this micro-batch's layout. May overwrite them.
        """
        # Before the nats: Megatron's cross-entropy makes its softmax where fp32 logits stood.
        penalty = z_loss * self._mean(layers.log_normalizer(logits).square()) if z_loss else 0.0
        mean = self._mean(layers.token_nll(logits, self.targets))
        return Loss(mean + penalty, mean.detach(), {})

    def _mean(self, scores: Scores) -> Tensor:
        return scores.mean() if self.weights is None else (scores * self.weights.t().to(scores.dtype)).mean()


def ordered_batch(
    tokens: Ids, orders: Sequence[Order], bos_id: int, first_sample: int = 0, eos_id: int | None = None
) -> MicroBatch:
    """Texts [batch, rows] in text order, each under an order of its own; rows are stored as revealed.

    eos_id: the end of a document, for attention within documents (None: across). Each then has its rows side by side,
    as revealed, so that the kernels can leave out what other documents hide.
    """
    places, blocks, before = stored(tokens, orders, eos_id)
    revealed = tokens.gather(1, places - 1)
    return MicroBatch(lay_out(revealed, places, blocks, bos_id, before), revealed, first_sample=first_sample)


def stored(tokens: Ids, orders: Sequence[Order], eos_id: int | None) -> tuple[Ids, Ids, Ids | None]:
    """Places, blocks and, within documents, the tokens before each row's document, as `ordered_batch` stores them."""
    places = torch.from_numpy(np.stack([order.position for order in orders]))
    blocks = torch.from_numpy(np.stack([order.block for order in orders]))
    if eos_id is None:
        return places, blocks, None
    before = tokens_before(tokens, eos_id).gather(1, places - 1)
    order = before.argsort(dim=1, stable=True)
    return places.gather(1, order), blocks.gather(1, order), before.gather(1, order)


def token_nll(model: Network, layout: Layout | DenoiserLayout, targets: Ids) -> Scores:
    """-log p(token | what its row sees) in nats, [rows, batch]. targets: [batch, rows], stored as in the layout."""
    return model.layers.token_nll(model(layout), targets)
