"""Text in, text out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from armd_dist.generation.decoder import Decoding, Generated
from armd_dist.generation.learned import LearnedDecoding
from armd_dist.generation.passes import make_batch
from armd_dist.generation.requests import Prepared
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from armd_dist.model.learned_order import LearnedOrderDenoiser
from data_pipeline.tokenizer import Tokenizer

OPEN = "·"
Generator = ARMD | LearnedOrderDenoiser  # networks that write text
Underway = Decoding | LearnedDecoding


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


def answer(model: Generator, tokenizer: Tokenizer, prepared: Sequence[Prepared], sampling: Sampling) -> list[Sample]:
    """The samples of prepared requests, decoded together."""
    decoding = begin(model, tokenizer, prepared, sampling)
    while decoding.open:
        decoding.step()
    return samples_of(decoding, tokenizer, prepared)


def begin(model: Generator, tokenizer: Tokenizer, prepared: Sequence[Prepared], sampling: Sampling) -> Underway:
    """The decode of prepared requests, for those who look on. A network that learned an order needs their pace."""
    ids, turns = make_batch([one.ids for one in prepared], [one.turns for one in prepared], tokenizer.bos_id)
    seeds = [one.request.seed for one in prepared]
    given = (sampling, tokenizer.bos_id, seeds, tokenizer.eos_id)
    if isinstance(model, LearnedOrderDenoiser):
        assert prepared[0].pace is not None, "the caller's ordering is learned"
        return LearnedDecoding(model, ids, turns, *given, prepared[0].pace)
    return Decoding(model, ids, turns, *given)


def samples_of(decoding: Underway, tokenizer: Tokenizer, prepared: Sequence[Prepared]) -> list[Sample]:
    """What a decode that is done has made of its requests."""
    generated = decoding.result()
    return [_sample(one, generated, row, tokenizer) for row, one in enumerate(prepared)]


def text_so_far(decoding: Underway, tokenizer: Tokenizer, row: int = 0) -> str:
    """One whole text of a decode under way, up to its end where that is known; a dot for each token still open."""
    end = int(decoding.ends.places[row])
    tokens = decoding.text[row, 1 : end + 1].tolist()
    there = [0 <= turn <= decoding.number for turn in decoding.turns[row, :end].tolist()]
    runs = groupby(zip(tokens, there, strict=True), key=lambda pair: pair[1])
    parts = [(final, [token for token, _ in run]) for final, run in runs]
    return "".join(tokenizer.decode(part) if final else OPEN * len(part) for final, part in parts)


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
