"""LoMDM's network: the denoiser, and two heads that read an order off it (Hong, Lee and Ye, arXiv 2602.02112).

All of a text is one window and one document.
"""

import torch
from torch import nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.denoiser import Denoiser, DenoiserLayout
from armd_dist.model.kernels import attend
from armd_dist.model.layers import Layers
from armd_dist.model.shapes import Angles, Hidden, Logits, Weights
from armd_dist.model.two_stream import Layer
from armd_dist.model.visibility import Mask


class OrderHead(Layer):
    """One Transformer block and an MLP, to one number for each position; no gradient reaches the features (stated).

    All rows see each other, and not BOS; the MLP has one hidden layer, as wide as the model (our choice).
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.norm = layers.norm(config.hidden_size, config.norm_eps, config.normalization, config.bias)
        self.inner = layers.whole(config.hidden_size, config.hidden_size)
        self.activation = nn.GELU(approximate="tanh")
        self.score = layers.whole(config.hidden_size, 1)

    def forward(self, features: Hidden, angles: tuple[Angles, Angles] | None) -> Weights:
        """Scores [batch, rows]; angles: of the rows' places."""
        rows = features.detach()
        normed = self.attention_norm(rows)
        keys, values = self.attention.keys_values(normed, angles, None)
        rows = self.add(rows, attend(self.attention.queries(normed, angles), keys, values, Mask()))
        return self.score(self.activation(self.inner(self.norm(rows))))[..., 0].t()


class LearnedOrderDenoiser(Denoiser):
    """The denoiser with g_phi, which orders a text that it knows, and g_psi, which orders a masked one to fill it.

    Under the same seed the denoiser's own weights start as they do without the heads.
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.forward_order = OrderHead(config, layers)
        self.reverse_order = OrderHead(config, layers)

    def order_of_text(self, layout: DenoiserLayout) -> Weights:
        """g_phi's scores. layout: of texts with nothing masked; their pass is for the head alone, without gradient."""
        with torch.no_grad():
            features = self.features(layout)
        return self._order(self.forward_order, 0, layout, features)

    def read(self, layout: DenoiserLayout) -> tuple[Logits, Weights]:
        """Logits as of `forward`, and g_psi's scores, from one pass."""
        features = self.features(layout)
        return self.predict(features), self._order(self.reverse_order, 1, layout, features)

    def _order(self, head: OrderHead, number: int, layout: DenoiserLayout, features: Hidden) -> Weights:
        """As a layer behind the last one: its dropout and recomputing are theirs."""
        angles = self.angles(layout.positions, features.dtype) if self.rotates else None
        return self.layers.run(self.config.num_layers + number, head, features, angles)
