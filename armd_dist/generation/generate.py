"""Text in, text out."""

from dataclasses import dataclass

import torch

from armd_dist.errors import GenerationError
from armd_dist.generation.decoder import decode
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.orders.strided import strided_places
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    """text: the continuation, cut at the first end of document; tokens and logprobs: all that was generated."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    passes: int


def generate_text(
    model: ARMD, tokenizer: Tokenizer, prompt: str, streams: int, max_new_tokens: int, sampling: Sampling, seed: int
) -> Sample:
    """Continues `prompt` by `max_new_tokens` tokens in `streams` strided streams, on the device where the model is.

    Raises GenerationError.
    """
    device = next(model.parameters()).device
    ids = torch.tensor([tokenizer.encode(prompt)], dtype=torch.int64, device=device).view(1, -1)
    generator = torch.Generator(device).manual_seed(seed)
    try:
        blocks = strided_places(max_new_tokens, streams)
        generated = decode(model, ids, blocks, sampling, tokenizer.bos_id, generator)
    except ValueError as error:
        raise GenerationError(str(error)) from error
    tokens = generated.tokens[0].tolist()
    end = tokens.index(tokenizer.eos_id) if tokenizer.eos_id in tokens else len(tokens)
    logprobs = generated.logprobs[0].tolist()
    return Sample(tokenizer.decode(tokens[:end]), tokens, logprobs, generated.passes)
