"""The ARMD network (arXiv 2601.16971): every conditional of every denoising step in one forward pass."""

from collections.abc import Sequence

from torch import nn

from armd_dist.model.attention import KeyValueCache
from armd_dist.model.config import ModelConfig
from armd_dist.model.language_model import LanguageModel
from armd_dist.model.layers import Layers
from armd_dist.model.layout import Layout
from armd_dist.model.query_context import make_query_context
from armd_dist.model.shapes import Hidden, KeyHidden, Logits
from armd_dist.model.two_stream import RowAngles, TwoStreamLayer, UpperLayer, join


class ARMD(LanguageModel):
    """Two-stream layers below, causal layers above, logits for the query rows.

    Row n predicts the token at its own place from tokens of strictly earlier blocks; there is no shift.
    """

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        assert config.two_stream_layers is not None, "ModelConfig fills it"
        self.query_context = make_query_context(config, layers)
        last = config.two_stream_layers - 1
        self.two_stream = nn.ModuleList(
            TwoStreamLayer(config, layers, drops_content=index == last) for index in range(config.two_stream_layers)
        )
        self.upper = nn.ModuleList(
            UpperLayer(config, layers) for _ in range(config.num_layers - config.two_stream_layers)
        )

    def forward(self, layout: Layout, caches: Sequence[KeyValueCache] | None = None) -> Logits:
        """Logits [query rows, batch, vocab of this process].

        `caches` (one for each layer and a last one for the query context) hold the rows of earlier calls.
        """
        at: Sequence[KeyValueCache | None] = caches or [None] * (self.config.num_layers + 1)
        content, query = self.embed(layout, at[-1])
        angles = self.rotations(layout, query)
        below = len(self.two_stream)
        for layer, cache in zip(self.two_stream, at[:below], strict=True):
            content, query = self.layers.run(layer, content, query, layout.visibility, angles, cache)
        for layer, cache in zip(self.upper, at[below:-1], strict=True):
            query = self.layers.run(layer, query, layout.visibility, angles, cache)
        return self.predict(query)

    def embed(self, layout: Layout, cache: KeyValueCache | None = None) -> tuple[KeyHidden, Hidden]:
        """X0 and G0: the two streams before the first layer, [rows, batch, hidden] each."""
        content = (self.tokens(layout.content_ids) + self.positions(layout.content_positions)).transpose(0, 1)
        query = self.positions(layout.query_positions).transpose(0, 1)
        if self.query_context is not None:
            query = query + self.query_context(layout, content, self.tokens, self.positions, cache)
        return self.dropout(content.contiguous()), self.dropout(query.contiguous())

    def rotations(self, layout: Layout, like: Hidden) -> RowAngles:
        """Rotary angles of both streams' rows, where rows are rotated."""
        if not self.rotates:
            return RowAngles()
        content = self.angles(layout.content_positions, like.dtype)
        query = self.angles(layout.query_positions, like.dtype)
        return RowAngles(content, query, joint=(join((content[0], query[0])), join((content[1], query[1]))))
