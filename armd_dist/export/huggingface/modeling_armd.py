"""ARMD for transformers: the usual causal-LM calls, any generation order, and strided decoding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.orders.strided import strided_places


class ArmdForCausalLM(PreTrainedModel, GenerationMixin):
    """Auto-Regressive Masked Diffusion language model (arXiv 2601.16971)."""

    config_class = ArmdConfig
    main_input_name = "input_ids"

    def __init__(self, config: ArmdConfig) -> None:
        super().__init__(config)
        self.armd = ARMD(config, PlainLayers())  # pyright: ignore[reportArgumentType]  the same fields by another class
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        block: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits [batch, length, vocab].

        Without `block` the calls of any causal LM: input_ids begin with BOS, logits[:, t] predict the token at t + 1,
        labels are shifted inside and -100 is left out. With `block` [batch, length], any order: input_ids without
        BOS, block[n] >= 1 says when token n is revealed (0: a prompt, shown at once), and logits[:, n] predict token n
        itself from the tokens of earlier blocks; labels are then not shifted.
        """
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("padding is not supported: give sequences of equal length, without an attention mask")
        if block is not None:
            logits = self._logits(input_ids, block)
            loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2), labels)
            return CausalLMOutput(loss=loss, logits=logits)
        if not (input_ids[:, 0] == self.config.bos_token_id).all():
            raise ValueError(f"input_ids must begin with BOS ({self.config.bos_token_id}); the tokenizer puts it there")
        # The last position predicts a token that is not there yet; what stands in its place is never looked at.
        following = F.pad(input_ids[:, 1:], (0, 1), value=self.config.bos_token_id)
        order = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device).expand_as(input_ids)
        logits = self._logits(following, order)
        loss = None if labels is None else F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:])
        return CausalLMOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor | None = None, streams: int | None = None, **kwargs: Any
    ) -> Any:
        """transformers' own generate(), or with `streams` strided decoding with a KV cache.

        With `streams`: returns [batch, input length + max_new_tokens], tokens behind the first EOS included. Takes
        max_new_tokens, do_sample, temperature, top_k, top_p, min_p, repetition_penalty, seed (row n takes seed + n) and
        an attention_mask that hides padding on the left. `last_passes` then tells the forward passes run.
        """
        if streams is None:
            return super().generate(input_ids, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        if input_ids is None:
            raise ValueError("generate(streams=...) needs input_ids")
        generated = self._decode(input_ids, streams, **kwargs)
        self.last_passes = max(generated.passes)
        new = generated.tokens[generated.placed].view(len(input_ids), -1)
        return torch.cat((input_ids, new.to(input_ids.device)), dim=1)

    def _decode(
        self,
        input_ids: Tensor,
        streams: int,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        attention_mask: Tensor | None = None,
    ) -> Generated:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if (mask.diff(dim=1) < 0).any():
            raise ValueError("padding on the right is not supported: pad prompts on the left (padding_side='left')")
        bos = self.config.bos_token_id
        rows = [row[real.bool()].tolist() for row, real in zip(input_ids, mask, strict=True)]
        texts = [[*row[row[:1] == [bos] :], *[None] * max_new_tokens] for row in rows]
        turns = [turns_of(strided_places(max_new_tokens, streams))] * len(rows)
        sampling = Sampling(temperature if do_sample else 0.0, top_k, top_p, min_p, repetition_penalty)
        seeds = range(seed, seed + len(rows))
        return decode(self.armd, *make_batch(texts, turns, bos), sampling, bos, seeds)

    def _logits(self, ids: Tensor, block: Tensor) -> Tensor:
        positions = torch.arange(1, ids.shape[1] + 1, device=ids.device).expand_as(ids)
        layout = lay_out(ids, positions, block, self.config.bos_token_id)
        return self.armd(layout).transpose(0, 1)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, **_: Any
    ) -> dict[str, Tensor]:
        """transformers' generate() reads the whole text again at each step; strided decoding has the cache."""
        return {"input_ids": input_ids}
