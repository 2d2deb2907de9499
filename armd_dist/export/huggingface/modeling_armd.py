"""ARMD for transformers: the usual causal-LM calls, any generation order, and strided decoding."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.utils.generic import can_return_tuple

from armd_dist.export.huggingface.alignment import next_rows
from armd_dist.export.huggingface.configuration_armd import ArmdConfig
from armd_dist.export.huggingface.strided_generation import Strided, prompts_of
from armd_dist.model.armd import ARMD
from armd_dist.model.layers import PlainLayers
from armd_dist.model.layout import lay_out

# What other models do with these nobody does here, and a caller who gives them counts on it.
NOT_HERE = ("position_ids", "past_key_values", "inputs_embeds", "output_hidden_states", "output_attentions")


class HiddenLayers(PlainLayers):
    """The network without its head: hidden states where logits would be."""

    def logits(self, hidden: Tensor, weight: Tensor, vocab_size: int) -> Tensor:
        return hidden


class ArmdPreTrainedModel(PreTrainedModel):
    config_class = ArmdConfig
    main_input_name = "input_ids"
    _no_split_modules = ["TwoStreamLayer", "UpperLayer"]  # noqa: RUF012  transformers reads it from the class
    _supports_sdpa = True  # and nothing else: the order chooses the kernel
    armd: ARMD

    def get_input_embeddings(self) -> nn.Module:
        return self.armd.tokens

    def resize_token_embeddings(self, *_: Any, **__: Any) -> nn.Embedding:
        """Refused: the vocabulary is the one that was trained."""
        rule = "the vocabulary is the one that was trained"
        raise NotImplementedError(f"resize_token_embeddings: {rule}; train a tokenizer with --special-tokens for more")


class ArmdModel(ArmdPreTrainedModel):
    """The network's last hidden states."""

    def __init__(self, config: ArmdConfig) -> None:
        super().__init__(config)
        self.armd = ARMD(config, HiddenLayers())  # pyright: ignore[reportArgumentType]  the same fields by another class
        self.post_init()

    @can_return_tuple
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> BaseModelOutput:
        """last_hidden_state [batch, length, hidden], normed: at each token what its successor is predicted from."""
        _refuse(more)
        rows = next_rows(self.armd, input_ids, attention_mask, self.config.bos_token_id)
        return BaseModelOutput(last_hidden_state=rows)  # pyright: ignore[reportArgumentType]


class ArmdForCausalLM(ArmdPreTrainedModel, GenerationMixin):
    """Auto-Regressive Masked Diffusion language model (arXiv 2601.16971)."""

    def __init__(self, config: ArmdConfig) -> None:
        super().__init__(config)
        self.armd = ARMD(config, PlainLayers())  # pyright: ignore[reportArgumentType]  the same fields by another class
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        block: Tensor | None = None,
        num_items_in_batch: Any = None,
        **more: Any,
    ) -> CausalLMOutput:
        """Logits [batch, length, vocab].

        Without `block` the calls of any causal LM: logits[:, t] predict the token at t + 1, labels are shifted inside
        and -100 is left out, and padding, before or behind a text, is hidden by attention_mask. BOS stands in front,
        and is put there where it is missing. With `block` [batch, length], any order: input_ids without BOS, block[n]
        >= 1 says when token n is revealed (0: a prompt, shown at once), and logits[:, n] predict token n itself from
        the tokens of earlier blocks; labels are then not shifted.
        """
        _refuse(more)
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
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *more: Any,
        streams: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' own generate(), or with `streams` strided decoding with a KV cache.

        With `streams`: returns [batch, input length + new tokens], each text up to its end and padded behind it. Takes
        generation_config, max_new_tokens or max_length, do_sample, temperature, top_k, top_p, min_p,
        repetition_penalty, num_return_sequences, eos_token_id (None: no end), pad_token_id, seed (row n takes seed + n;
        by default drawn from torch's) and an attention_mask that hides padding on the left; raises ValueError for
        others. `last_passes` then tells the forward passes run.
        """
        if streams is None or kwargs.get("custom_generate") is not None:
            if streams is not None:
                kwargs["streams"] = streams
            return super().generate(inputs, generation_config, *more, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        kwargs.pop("trust_remote_code", None)
        bos = self.config.bos_token_id
        ids = next((given for given in (kwargs.pop("input_ids", None), inputs) if given is not None), None)
        if ids is None:
            ids = torch.full((1, 1), bos, device=self.device)
        prompts = prompts_of(ids, kwargs.pop("attention_mask", None), bos)
        asked = Strided.read(streams, generation_config, self.generation_config, ids.shape[1], **kwargs)
        generated = asked.decode(self.armd, prompts, bos)
        self.last_passes = max(generated.passes)
        new = asked.new_rows(generated).to(ids.device)
        return torch.cat((ids.repeat_interleave(asked.copies, dim=0), new), dim=1)

    def prepare_inputs_for_generation(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        """transformers' generate() reads the whole text again at each step; strided decoding has the cache."""
        return {"input_ids": input_ids, "attention_mask": attention_mask}


def _refuse(more: dict[str, Any]) -> None:
    """Raises ValueError for arguments that would be ignored, and whose caller would not know."""
    for name in NOT_HERE:
        if more.get(name) is not None and more[name] is not False:
            raise ValueError(f"{name}: is not for this model; leave it out (places and order follow from the ids)")
