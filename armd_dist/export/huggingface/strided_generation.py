"""generate(streams=...): the arguments of transformers' generate() as strided decoding takes them, and its answer."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch, turns_of
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.orders.strided import strided_places

NEW_TOKENS = 20  # as transformers has it where nobody says how many
# Settings that strided decoding follows, or that say nothing of the answer.
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_return_sequences")
LENGTHS = ("max_new_tokens", "max_length", "eos_token_id", "pad_token_id", "bos_token_id")
SILENT = ("use_cache", "transformers_version")
NEUTRAL = {"num_beams": 1, "num_beam_groups": 1, "length_penalty": 1.0, "typical_p": 1.0}  # where others have 0


@dataclass(frozen=True)
class Strided:
    """What is asked for, beside the prompts. seed: of the first text; the next takes one more. eos_id: None where texts
    have no end."""

    streams: int
    new_tokens: int
    sampling: Sampling
    copies: int
    seed: int
    eos_id: int | None
    pad_id: int

    @classmethod
    def read(
        cls, streams: Any, given: GenerationConfig | None, own: GenerationConfig, length: int, **kwargs: Any
    ) -> "Strided":
        """given: the caller's settings, before which kwargs go; own: the model's, for what nobody says; length: of the
        longest prompt. Raises ValueError for what strided decoding cannot do."""
        if type(streams) is not int:
            raise ValueError(f"streams={streams!r}: use a whole number from 1 up")
        config = copy.deepcopy(given) if given is not None else GenerationConfig()
        config.update(**own.to_dict(), defaults_only=True, allow_custom_entries=True)
        seed = kwargs.pop("seed", None)
        rest = {name: value for name, value in config.update(**kwargs).items() if value is not None}
        refused = {name: value for name, value in config.to_diff_dict().items() if _counts(name, value)} | rest
        if refused:
            found = ", ".join(f"{name}={value!r}"[:80] for name, value in sorted(refused.items()))
            raise ValueError(f"generate(streams={streams}): cannot do {found}; leave it out, or leave out streams")
        # From torch's own numbers, so that torch.manual_seed decides, as it does without streams.
        drawn = int(torch.randint(2**48, ())) if seed is None else seed
        return cls(
            streams,
            _new_tokens(config, length),
            _sampling(config),
            config.num_return_sequences or 1,
            drawn,
            _only(config.eos_token_id, streams),
            config.pad_token_id or 0,
        )

    def decode(self, network: ARMD, prompts: Sequence[Sequence[int]], bos_id: int) -> Generated:
        """Each prompt, without BOS, `copies` times."""
        turns = turns_of(strided_places(self.new_tokens, self.streams))
        texts = [[*prompt, *[None] * self.new_tokens] for prompt in prompts for _ in range(self.copies)]
        seeds = range(self.seed, self.seed + len(texts))
        batch = make_batch(texts, [turns] * len(texts), bos_id)
        return decode(network, *batch, self.sampling, bos_id, seeds, self.eos_id)

    def new_rows(self, generated: Generated) -> Tensor:
        """[texts, tokens of the longest one]: what was generated up to each text's end, then pad_id."""
        rows = [
            tokens[:end][holes[:end]]
            for tokens, holes, end in zip(generated.tokens, generated.placed, generated.ends, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)


def prompts_of(input_ids: Tensor, attention_mask: Tensor | None, bos_id: int) -> list[list[int]]:
    """Ids of each row without padding and BOS. Raises ValueError where padding stands behind a text."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if (mask.diff(dim=1) < 0).any():
        raise ValueError("padding on the right is not supported: pad prompts on the left (padding_side='left')")
    rows = [row[real.bool()].tolist() for row, real in zip(input_ids, mask, strict=True)]
    return [row[row[:1] == [bos_id] :] for row in rows]


def _counts(name: str, value: Any) -> bool:
    """Whether a setting would change the answer, and is none that is followed."""
    followed = name in (*SAMPLING, *LENGTHS, *SILENT) or name.startswith("_")
    return not followed and value not in (None, NEUTRAL.get(name, 0))


def _new_tokens(config: GenerationConfig, length: int) -> int:
    if config.max_new_tokens is not None or config.max_length is None:
        return NEW_TOKENS if config.max_new_tokens is None else config.max_new_tokens
    if config.max_length <= length:
        raise ValueError(f"max_length={config.max_length}: the prompt has {length} tokens already; use max_new_tokens")
    return config.max_length - length


def _sampling(config: GenerationConfig) -> Sampling:
    """Nothing is cut that nobody asked to be cut, where transformers' own loop has top_k 50."""
    temperature = (1.0 if config.temperature is None else config.temperature) if config.do_sample else 0.0
    penalty = 1.0 if config.repetition_penalty is None else config.repetition_penalty
    return Sampling(temperature, config.top_k or None, config.top_p, config.min_p, penalty)


def _only(eos_ids: int | list[int] | None, streams: int) -> int | None:
    if not isinstance(eos_ids, list):
        return eos_ids
    if len(eos_ids) != 1:
        raise ValueError(f"generate(streams={streams}): eos_token_id={eos_ids}: use one token, or None for no end")
    return eos_ids[0]
