"""The ARMD network (arXiv 2601.16971): every conditional of every denoising step in one forward pass."""

from collections.abc import Sequence

from torch import Tensor, nn

from armd_dist.model.attention import KeyValueCache
from armd_dist.model.config import ModelConfig
from armd_dist.model.language_model import LanguageModel
from armd_dist.model.layers import Layers
from armd_dist.model.layout import Layout
from armd_dist.model.query_context import make_query_context
from armd_dist.model.shapes import Hidden, Ids, KeyHidden
from armd_dist.model.stages import Stage
from armd_dist.model.two_stream import RowAngles, TwoStreamLayer, UpperLayer, join


class ARMD(LanguageModel):
    """Two-stream layers below, causal layers above, logits for the query rows.

    Row n predicts the token at its own place from tokens of strictly earlier blocks; there is no shift.
    """

    def __init__(self, config: ModelConfig, layers: Layers, stage: Stage | None = None) -> None:
        super().__init__(config, layers, stage)
        assert config.two_stream_layers is not None, "ModelConfig fills it"
        self.below = below = config.two_stream_layers
        if self.stage.embeds:
            self.query_context = make_query_context(config, layers)
        self.two_stream = nn.ModuleDict(
            {str(i): TwoStreamLayer(config, layers, drops_content=i == below - 1) for i in self.stage.among(0, below)}
        )
        upper = self.stage.among(below, config.num_layers)
        self.upper = nn.ModuleDict({str(i - below): UpperLayer(config, layers) for i in upper})

    def forward(
        self,
        layout: Layout,
        caches: Sequence[KeyValueCache] | None = None,
        rows: Tensor | None = None,
        asked: int | None = None,
    ) -> Tensor:
        """Logits [query rows, batch, vocab of this process], or of a stage before the last one its rows.

        caches (one for each layer and a last one for the query context) hold the rows of earlier calls. rows: those of
        the stage before this one, [rows, batch of both streams, hidden] as `join` makes them, of the query alone from
        the first upper layer on. asked: logits of so many last query rows alone; None: of all.
        """
        at: Sequence[KeyValueCache | None] = caches or [None] * (self.config.num_layers + 1)
        if rows is None:
            content, query = self.embed(layout, at[-1])
        else:
            content, query = rows.chunk(2, dim=1) if self.stage.first < self.below else (None, rows)
        angles = self.rotations(layout, query)
        for name, layer in self.two_stream.items():
            number = int(name)
            given = (content, query, layout.visibility, angles, at[number])
            content, query = self.layers.run(number, layer, *given)
        for name, layer in self.upper.items():
            number = self.below + int(name)
            query = self.layers.run(number, layer, query, layout.visibility, angles, at[number])
        if self.stage.predicts:
            return self.predict(query if asked is None else query[-asked:])
        if content is not None and self.stage.last < self.below:
            return join((content, query))
        return query

    def embed(self, layout: Layout, cache: KeyValueCache | None = None) -> tuple[KeyHidden, Hidden]:
        """X0 and G0: the two streams before the first layer, [rows, batch, hidden] each."""
        content = (self.tokens(layout.content_ids) + self.positions(layout.content_positions)).transpose(0, 1)
        query = self.positions(self.query_places(layout)).transpose(0, 1)
        if self.query_context is not None:
            query = query + self.query_context(layout, content, self.tokens, self.positions, cache)
        return self.dropout(content.contiguous()), self.dropout(query.contiguous())

    def query_places(self, layout: Layout) -> Ids:
        """Where the query's rows stand; places count from 1, and padding stands at 0."""
        places = layout.query_positions
        return (places - 1).clamp(min=0) if self.config.query_place == "previous" else places

    def rotations(self, layout: Layout, like: Hidden) -> RowAngles:
        """Rotary angles of both streams' rows, where rows are rotated."""
        if not self.rotates:
            return RowAngles()
        content = self.angles(layout.content_positions, like.dtype)
        query = self.angles(self.query_places(layout), like.dtype)
        return RowAngles(content, query, joint=(join((content[0], query[0])), join((content[1], query[1]))))
