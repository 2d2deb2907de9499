"""ARMD for transformers: the usual causal-LM calls, any generation order, and strided decoding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from armd_dist.export.huggingface.alignment import next_rows
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out
from armd_dist.orders.strided import strided_places


class HiddenLayers(PlainLayers):
    """The network without its head: hidden states where logits would be."""

    def logits(self, hidden: Tensor, weight: Tensor, vocab_size: int) -> Tensor:
        return hidden


class ArmdPreTrainedModel(PreTrainedModel):
    config_class = ArmdConfig
    main_input_name = "input_ids"
    _no_split_modules = ["TwoStreamLayer", "UpperLayer"]  # noqa: RUF012  transformers reads it from the class
    armd: ARMD

    def get_input_embeddings(self) -> nn.Module:
        return self.armd.tokens


class ArmdModel(ArmdPreTrainedModel):
    """The network's last hidden states."""

    def __init__(self, config: ArmdConfig) -> None:
        super().__init__(config)
        self.armd = ARMD(config, HiddenLayers())  # pyright: ignore[reportArgumentType]  the same fields by another class
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any) -> BaseModelOutput:
        """last_hidden_state [batch, length, hidden], normed: at each token what its successor is predicted from."""
        rows = next_rows(self.armd, input_ids, attention_mask, self.config.bos_token_id)
        return BaseModelOutput(last_hidden_state=rows)  # pyright: ignore[reportArgumentType]


class ArmdForCausalLM(ArmdPreTrainedModel, GenerationMixin):
    """Auto-Regressive Masked Diffusion language model (arXiv 2601.16971)."""

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
        num_items_in_batch: Any = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits [batch, length, vocab].

        Without `block` the calls of any causal LM: logits[:, t] predict the token at t + 1, labels are shifted inside
        and -100 is left out, and padding, before or behind a text, is hidden by attention_mask. BOS stands in front,
        and is put there where it is missing. With `block` [batch, length], any order: input_ids without BOS, block[n]
        >= 1 says when token n is revealed (0: a prompt, shown at once), and logits[:, n] predict token n itself from
        the tokens of earlier blocks; labels are then not shifted.
        """
        bos = self.config.bos_token_id
        if block is None:
            logits = next_rows(self.armd, input_ids, attention_mask, bos)
            loss = None
            if labels is not None:
                vocab = self.config.vocab_size
                loss = self.loss_function(logits.contiguous(), labels, vocab, num_items_in_batch=num_items_in_batch)
            return CausalLMOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("attention_mask: block= takes texts of equal length; leave out padding")
        places = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device).expand_as(input_ids)
        logits = self.armd(lay_out(input_ids, places, block, bos)).transpose(0, 1)
        loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2), labels)
        return CausalLMOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType]

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

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        """transformers' generate() reads the whole text again at each step; strided decoding has the cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}
