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
from armd_dist.model.shapes import Angles, Ids, KeyHidden, KeyIds, Logits, Masked
from armd_dist.model.two_stream import Layer
from armd_dist.model.visibility import Mask

CLEAN = -1  # window of BOS, before all others


@dataclass(frozen=True)
class DenoiserLayout:
    """Rows of the denoiser: first clean ones, which know their token, then one for every token of the text.

    Over a whole text BOS alone is clean, and all rows see each other, as in MDLM. With windows the text stands there
    twice, as in BD3-LM: a row of the second copy sees its own window there, and the earlier windows in the clean copy,
    whose last window nobody would read.

    clean_ids, positions of clean rows: [batch, clean]; ids, masked, positions: [batch, rows], in text order;
    mask: of all rows on all rows.
    """

    clean_ids: KeyIds
    clean_positions: KeyIds
    ids: Ids
    positions: Ids
    masked: Masked
    mask: Mask

    def to(self, device: object) -> "DenoiserLayout":
        return DenoiserLayout(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def lay_out_masked(ids: Ids, masked: Masked, window: int, bos_id: int) -> DenoiserLayout:
    """Rows for whole texts [batch, rows] in text order, in windows of `window` tokens (the last may be short)."""
    batch, rows = ids.shape
    last = (rows - 1) // window * window  # where the last window starts: its clean copy is never a key
    place = torch.arange(1, rows + 1, device=ids.device).expand(batch, -1)
    of_row = torch.arange(rows, device=ids.device) // window
    return DenoiserLayout(
        clean_ids=torch.nn.functional.pad(ids[:, :last], (1, 0), value=bos_id),
        clean_positions=torch.nn.functional.pad(place[:, :last], (1, 0)),
        ids=ids,
        positions=place,
        masked=masked,
        mask=_two_copies(torch.nn.functional.pad(of_row[:last], (1, 0), value=CLEAN), of_row) if last else Mask(),
    )


def _two_copies(clean: Tensor, noisy: Tensor) -> Mask:
    """Clean rows see clean windows up to their own; others the clean windows before theirs and all of their own."""
    of_clean = torch.cat(
        (clean[None, :] <= clean[:, None], clean.new_zeros(len(clean), len(noisy), dtype=torch.bool)), 1
    )
    of_noisy = torch.cat((clean[None, :] < noisy[:, None], noisy[None, :] == noisy[:, None]), 1)
    return Mask(dense=torch.cat((of_clean, of_noisy))[None])


class DenoiserLayer(Layer):
    """An ordinary transformer layer under the layout's mask."""

    def forward(self, rows: KeyHidden, mask: Mask, angles: tuple[Angles, Angles] | None) -> KeyHidden:
        normed = self.attention_norm(rows)
        keys, values = self.attention.keys_values(normed, angles, None)
        return self.add(rows, attend(self.attention.queries(normed, angles), keys, values, mask))


class Denoiser(LanguageModel):
    """A bidirectional transformer with the layers, embeddings and head of the ARMD network."""

    def __init__(self, config: ModelConfig, layers: Layers) -> None:
        super().__init__(config, layers)
        self.mask = layers.position_embedding(1, config.hidden_size)
        self.stack = nn.ModuleList(DenoiserLayer(config, layers) for _ in range(config.num_layers))

    def forward(self, layout: DenoiserLayout) -> Logits:
        """Logits [rows, batch, vocab of this process]; those of rows whose token is known mean nothing."""
        places = torch.cat((layout.clean_positions, layout.positions), dim=1)
        rows = self.dropout((self.embed(layout) + self.positions(places)).transpose(0, 1).contiguous())
        angles = self.angles(places, rows.dtype) if self.rotates else None
        for layer in self.stack:
            rows = self.layers.run(layer, rows, layout.mask, angles)
        return self.predict(rows[layout.clean_ids.shape[1] :])

    def embed(self, layout: DenoiserLayout) -> Tensor:
        """Tokens, or the mask in their place, [batch, all rows, hidden]."""
        hidden = self.tokens(torch.cat((layout.clean_ids, layout.ids), dim=1))
        clean = torch.zeros_like(layout.clean_ids, dtype=torch.bool)
        masked = torch.cat((clean, layout.masked), dim=1)
        return torch.where(masked[..., None], self.mask.get_parameter("weight")[0], hidden)
