"""What every network here begins and ends with: embeddings, places, and the head."""

import torch
from torch import nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.layers import Layers
from armd_dist.model.parametrization import output_multiplier
from armd_dist.model.rotary import rotary_angles
from armd_dist.model.shapes import Angles, Ids, Logits, OwnHidden, Weight
from armd_dist.model.stages import Stage, whole


class LanguageModel(nn.Module):
    """The parts that ARMD and the denoiser share, so that a comparison differs in the network between them alone.

    Of a stage only what it needs is there, under the names of the whole network. With a tied head the last stage has
    the token embedding as well. packed_head: what `pack` makes of the head's weight.
    """

    packed_head: Weight | None = None

    def __init__(self, config: ModelConfig, layers: Layers, stage: Stage | None) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.stage = stage or whole(config.num_layers)
        self.rotates = config.position_embedding != "learned"
        if self.stage.embeds or (self.stage.predicts and config.tie_embeddings):
            self.tokens = layers.token_embedding(config.padded_vocab_size, config.hidden_size)
        if self.stage.embeds:
            self.positions = layers.position_embedding(config.num_positions, config.hidden_size)
            self.dropout = nn.Dropout(config.hidden_dropout)
        if self.stage.predicts:
            self.output_multiplier = output_multiplier(config)
            self.norm = layers.norm(config.hidden_size, config.norm_eps, config.normalization, config.bias)
            if not config.tie_embeddings:
                self.head = layers.token_embedding(config.padded_vocab_size, config.hidden_size)

    def angles(self, places: Ids, dtype: torch.dtype) -> tuple[Angles, Angles]:
        """Rotary cosines and sines of rows at these places in the text."""
        return rotary_angles(places, self.config.head_dim, self.config.rope_theta, dtype)

    def predict(self, rows: OwnHidden) -> Logits:
        """The head, on the token embedding's own rows where the two are tied."""
        weight = self.head_weight if self.packed_head is None else self.packed_head
        normed = self.norm(rows)
        if self.output_multiplier != 1:
            normed = normed * self.output_multiplier
        return self.layers.logits(normed, weight, self.config.vocab_size)

    @property
    def head_weight(self) -> Weight:
        """[vocabulary's rows of this process, hidden]"""
        return (self.tokens if self.config.tie_embeddings else self.head).get_parameter("weight")
