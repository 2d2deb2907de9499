"""The bidirectional denoiser of the masked-diffusion baselines: MDLM over a whole text, BD3-LM over its windows.

Tokens are known or masked, and every row sees the known tokens of its own window and all of the earlier windows. The
input knows no mask token of the tokenizer's (a vector of the network's stands in its place), so the head cannot predict
one, and known tokens are never scored: together the SUBS parametrisation of MDLM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from armd_dist.model.config import ModelConfig
from armd_dist.model.kernels import attend
from armd_dist.model.language_model import LanguageModel
from armd_dist.model.layers import Layers
from armd_dist.model.shapes import Angles, Hidden, Ids, KeyHidden, KeyIds, Masked, Visible
from armd_dist.model.stages import Stage
from armd_dist.model.two_stream import Layer
from armd_dist.model.visibility import Mask, not_later

CLEAN = -1  # window of BOS, before all others
OF_ALL = -1  # document of BOS


@dataclass(frozen=True)
class DenoiserLayout:
    """Rows of the denoiser: first clean ones, which know their token, then one for every token of the text.

    Over a whole text BOS alone is clean, as in MDLM. With windows the text stands there twice, as in BD3-LM: a row of
    the second copy sees its own window there, and the earlier windows in the clean copy, whose last window nobody
    would read. Within documents it sees what is in its own document of all that, and BOS.

    clean_ids, clean_positions: [batch, clean]; ids, positions, masked: [batch, rows], in text order; of_clean: clean
    rows on clean rows; of_text: the text's rows on all rows.
    """

    clean_ids: KeyIds
    clean_positions: KeyIds
    ids: Ids
    positions: Ids
    masked: Masked
    of_clean: Mask
    of_text: Mask

    def to(self, device: object) -> "DenoiserLayout":
        return DenoiserLayout(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lay_out_masked(ids: Ids, masked: Masked, window: int, bos_id: int, before: Ids | None = None) -> DenoiserLayout:
    """Rows for whole texts [batch, rows] in text order, in windows of `window` tokens (the last may be short).

    before: as in `lay_out`. Windows are those of the text, so that a document's first one may be short too.
    """
    batch, rows = ids.shape
    last = (rows - 1) // window * window  # where the last window starts: its clean copy is never a key
    place = torch.arange(1, rows + 1, device=ids.device).expand(batch, -1)
    of_row = torch.arange(rows, device=ids.device) // window
    clean = torch.nn.functional.pad(of_row[:last], (1, 0), value=CLEAN)
    of_clean = not_later(clean[None], clean[None])
    # One window: all rows see each other and BOS, and no mask is needed.
    of_text = _of_text(clean, of_row) if last else None
    if before is not None and before.any():
        documents = torch.nn.functional.pad(before[:, :last], (1, 0), value=OF_ALL)
        of_clean = of_clean & _same_document(documents, documents)
        of_text = _of_text(clean, of_row) & _same_document(before, torch.cat((documents, before), dim=1))
        place = place - before
    return DenoiserLayout(
        clean_ids=torch.nn.functional.pad(ids[:, :last], (1, 0), value=bos_id),
        clean_positions=torch.nn.functional.pad(place[:, :last], (1, 0)),
        ids=ids,
        positions=place,
        masked=masked,
        of_clean=Mask(dense=of_clean),
        of_text=Mask(dense=of_text),
    )


def _of_text(clean: Tensor, text: Tensor) -> Tensor:
    """[1, rows, clean + rows]: a row sees the clean windows before its own, and all of its own in the second copy."""
    return torch.cat((clean[None, :] < text[:, None], text[None, :] == text[:, None]), dim=1)[None]


def _same_document(rows: Ids, keys: KeyIds) -> Visible:
    """[batch, rows, keys], true where both are of one document, or the key is BOS."""
    return (keys[:, None, :] == rows[:, :, None]) | (keys == OF_ALL)[:, None, :]


class DenoiserLayer(Layer):
    """An ordinary transformer layer, its rows in two groups that see different keys.

    After the last layer nobody reads the clean rows: there only their keys and values are computed.
    """

    def __init__(self, config: ModelConfig, layers: Layers, drops_clean: bool) -> None:
        super().__init__(config, layers)
        self.drops_clean = drops_clean

    def forward(self, rows: KeyHidden, layout: DenoiserLayout, angles: tuple[Angles, Angles] | None) -> Tensor:
        """rows: the clean ones, then the text's; returns the same, or the text's alone where clean ones are dropped."""
        clean = layout.clean_ids.shape[1]
        normed = self.attention_norm(rows)
        keys, values = self.attention.keys_values(normed, angles, None)
        asking = slice(clean, None) if self.drops_clean else slice(None)
        turns = None if angles is None else (angles[0][asking], angles[1][asking])
        queries = self.attention.queries(normed[asking], turns)
        if self.drops_clean:
            return self.add(rows[asking], attend(queries, keys, values, layout.of_text))
        of_clean = attend(queries[:clean], keys[:, :, :clean], values[:, :, :clean], layout.of_clean)
        of_text = attend(queries[clean:], keys, values, layout.of_text)
        return self.add(rows, torch.cat((of_clean, of_text)))


class Denoiser(LanguageModel):
    """A bidirectional transformer with the layers, embeddings and head of the ARMD network."""

    def __init__(self, config: ModelConfig, layers: Layers, stage: Stage | None = None) -> None:
        super().__init__(config, layers, stage)
        if self.stage.embeds:
            self.mask = layers.position_embedding(1, config.hidden_size)  # the vector in place of a hidden token
        last = config.num_layers - 1
        self.stack = nn.ModuleDict(
            {str(i): DenoiserLayer(config, layers, drops_clean=i == last) for i in self.stage.among(0, last + 1)}
        )

    def forward(self, layout: DenoiserLayout, rows: KeyHidden | None = None) -> Tensor:
        """Logits [rows, batch, vocab of this process], or of a stage before the last one its rows.

        Logits of rows whose token is known mean nothing. rows: of the stage before this one, the clean ones first.
        """
        passed = self.features(layout, rows)
        return self.predict(passed) if self.stage.predicts else passed

    def features(self, layout: DenoiserLayout, rows: KeyHidden | None = None) -> Hidden:
        """What the head reads, [rows, batch, hidden], known rows too; or of a stage before the last one its rows."""
        places = torch.cat((layout.clean_positions, layout.positions), dim=1)
        if rows is None:
            passed = self.dropout((self.embed(layout) + self.positions(places)).transpose(0, 1).contiguous())
        else:
            passed = rows
        angles = self.angles(places, passed.dtype) if self.rotates else None
        for name, layer in self.stack.items():
            passed = self.layers.run(int(name), layer, passed, layout, angles)
        return passed

    def embed(self, layout: DenoiserLayout) -> Tensor:
        """Tokens, or the mask in their place, [batch, all rows, hidden]."""
        hidden = self.tokens(torch.cat((layout.clean_ids, layout.ids), dim=1))
        clean = torch.zeros_like(layout.clean_ids, dtype=torch.bool)
        masked = torch.cat((clean, layout.masked), dim=1)
        return torch.where(masked[..., None], self.mask.get_parameter("weight")[0], hidden)
