"""ARMD with its cache, in an order that a network which learned one chooses from what is written so far.

Before each pass the guide reads the texts, whole and without a cache, and names the places; what stands there is ARMD's
to say. So a learned order is one more order of ARMD's (derived), which is known a pass ahead instead of from the start.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from armd_dist.generation.continuous import ContinuousDecoder
from armd_dist.generation.decoder import Generated
from armd_dist.generation.passes import BEHIND, KNOWN
from armd_dist.generation.requests import Prepared
from armd_dist.generation.sampling import Sampling
from armd_dist.generation.underway import Text
from armd_dist.model.armd import ARMD
from armd_dist.model.config import ModelConfig
from armd_dist.model.learned_order import LearnedOrderDenoiser
from armd_dist.objectives.learned_order import exponents, lay_out_known
from armd_dist.objectives.schedulers import polynomial


class GuidedARMD(nn.Module):
    """The network that writes and the one that says where."""

    def __init__(self, armd: ARMD, guide: LearnedOrderDenoiser) -> None:
        super().__init__()
        self.armd, self.guide = armd, guide

    @property
    def config(self) -> ModelConfig:
        """Of the network that writes; its longest text is one that the guide can read too."""
        longest = min(self.armd.config.max_sequence_length, self.guide.config.max_sequence_length)
        return self.armd.config.model_copy(update={"max_sequence_length": longest})


class GuidedDecoding:
    """A decode under way, for those who look on: `step` while `open`, then `result`; as `Decoding` has them.

    What turns the requests' holes have does not matter; they need a pace without `steps`. Raises ValueError where a
    text exceeds the model's length.
    """

    def __init__(
        self, model: GuidedARMD, prepared: Sequence[Prepared], sampling: Sampling, bos_id: int, eos_id: int | None
    ) -> None:
        pace = prepared[0].pace
        assert pace is not None, "the caller's ordering is learned"
        self.guide, self.pace, self.bos_id = model.guide, pace, bos_id
        self.texts = [Text(one, sampling, bos_id, eos_id) for one in prepared]
        self.decoder = ContinuousDecoder(model.armd, slots=len(self.texts))
        # Numbers of their own: those of the request's seed draw its tokens.
        self.noise = [np.random.default_rng((one.request.seed, 1)) for one in prepared]
        self.number = 0

    @property
    def open(self) -> bool:
        """Whether there is a text that is not over."""
        return any(not text.done for text in self.texts)

    @torch.inference_mode()
    def step(self) -> None:
        """A pass of the guide for each length of text, and one of ARMD over all that are not over."""
        live = [number for number, text in enumerate(self.texts) if not text.done]
        for length in sorted({len(self.texts[number].turns) for number in live}):
            self._choose([number for number in live if len(self.texts[number].turns) == length])
        self.decoder.step([] if self.number else self.texts)
        self.number += 1

    def result(self) -> Generated:
        """What every text has become, on the CPU."""
        placed = torch.from_numpy(self._padded([(one.turns > KNOWN) & ~one.open for one in self.texts], False))
        return Generated(
            self.text[:, 1:-1],
            torch.from_numpy(self._padded([one.logprobs[1:-1] for one in self.texts], 0.0)),
            placed,
            [one.end for one in self.texts],
            [one.number for one in self.texts],
        )

    @property
    def text(self) -> Tensor:
        """[batch, 1 + places + 1], as of `Decoding`."""
        return torch.from_numpy(self._padded([one.tokens for one in self.texts], self.bos_id))

    @property
    def turns(self) -> Tensor:
        """[batch, places] the pass that filled each, above `number` where none has."""
        return torch.from_numpy(self._padded([one.turns for one in self.texts], BEHIND))

    @property
    def places(self) -> list[int]:
        """Of each text up to its end."""
        return [one.end for one in self.texts]

    def _choose(self, numbers: Sequence[int]) -> None:
        """The places that the next pass fills in these texts, which are of one length."""
        texts = [self.texts[number] for number in numbers]
        ids, hidden = (
            torch.from_numpy(np.stack(part))
            for part in ([one.tokens[1:-1] for one in texts], [one.open for one in texts])
        )
        uniforms = torch.from_numpy(np.stack([self.noise[number].random(ids.shape[1]) for number in numbers]))
        device = next(self.guide.parameters()).device
        _, scores = self.guide.read(replace(lay_out_known(ids, self.bos_id), masked=hidden).to(device))
        scheduler = polynomial(exponents(scores, self.guide.config).cpu())
        chosen = self.pace.choose(scheduler, hidden, uniforms, self.number + 1)
        for text, row in zip(texts, chosen.numpy(), strict=True):
            text.choose(np.flatnonzero(row))

    def _padded(self, rows: Sequence[np.ndarray], filler: float) -> np.ndarray:
        """[texts, the longest]."""
        made = np.full((len(rows), max(map(len, rows))), filler, dtype=rows[0].dtype)
        for number, row in enumerate(rows):
            made[number, : len(row)] = row
        return made
