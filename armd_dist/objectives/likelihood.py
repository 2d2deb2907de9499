"""The block-causal likelihood: one forward pass gives every conditional of every block.

ARMD, AR, masked diffusion and block diffusion differ in the order alone; for iid masking times the unweighted mean is
the discrete-time masked-diffusion NELBO, and left to right it is the AR loss (derived).
"""

from torch import Tensor

from armd_dist.model.armd import ARMD
from armd_dist.model.layout import Layout
from armd_dist.model.shapes import Ids, Scores


def token_nll(model: ARMD, layout: Layout, targets: Ids) -> Scores:
    """-log p(token | earlier blocks) in nats, [rows, batch]. targets: [batch, rows], in the layout's storage order."""
    return model.layers.token_nll(model(layout), targets)


def likelihood_loss(model: ARMD, layout: Layout, targets: Ids) -> Tensor:
    """The mean of `token_nll` over all tokens of the micro-batch: a scalar."""
    return token_nll(model, layout, targets).mean()
