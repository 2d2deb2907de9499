"""Text in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass

from armd_dist.generation.decoder import Generated, decode
from armd_dist.generation.passes import make_batch
from armd_dist.generation.requests import Ordering, Prepared, Request, prepare
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Sample:
    """text: the continuation of a prompt, or all of a text whose holes were filled, up to its end.

    tokens and logprobs (nats, of the model itself): what was generated up to the text's end, in text order, that end
    included where the model set it. passes: forward passes that this text needed.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    passes: int


def generate_texts(
    model: ARMD, tokenizer: Tokenizer, requests: Sequence[Request], ordering: Ordering, sampling: Sampling
) -> list[Sample]:
    """Answers requests in one batch, on the device where the model is. Raises GenerationError."""
    longest = model.config.max_sequence_length
    return answer(model, tokenizer, [prepare(one, tokenizer, ordering, longest) for one in requests], sampling)


def answer(model: ARMD, tokenizer: Tokenizer, prepared: Sequence[Prepared], sampling: Sampling) -> list[Sample]:
    """The samples of prepared requests, decoded together."""
    ids, turns = make_batch([one.ids for one in prepared], [one.turns for one in prepared], tokenizer.bos_id)
    seeds = [one.request.seed for one in prepared]
    generated = decode(model, ids, turns, sampling, tokenizer.bos_id, seeds, tokenizer.eos_id)
    return [_sample(one, generated, row, tokenizer) for row, one in enumerate(prepared)]


def _sample(prepared: Prepared, generated: Generated, row: int, tokenizer: Tokenizer) -> Sample:
    end = generated.ends[row]
    mine = generated.placed[row, :end]
    tokens = generated.tokens[row, :end]
    shown = tokens if prepared.request.infill else tokens[mine]
    return Sample(
        tokenizer.decode(shown.tolist()),
        tokens[mine].tolist(),
        generated.logprobs[row, :end][mine].tolist(),
        generated.passes[row],
    )
