"""Texts that a model writes in S streams, and how long it takes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.journal import Journal, Text, key_of
from armd_dist.generation.decoder import Decoding
from armd_dist.generation.passes import check_length, make_batch
from armd_dist.generation.requests import Ordering
from armd_dist.generation.sampling import Sampling
from armd_dist.model.armd import ARMD
from data_pipeline.tokenizer import Tokenizer

# Where texts are kept, and what tells this model's from others'.
Kept = tuple[Journal[Text], dict[str, Any]]
WARM_UP_PASSES = 2  # the first reads the prompt; kernels of the second are those of all others


@dataclass(frozen=True)
class Asked:
    """How many texts of how many new tokens, behind how many tokens of a held-out document; 0: behind BOS alone.

    Text n is drawn from seed + n. ends: whether a text is over at its first end-of-document token, for models that
    were trained within documents. Without it every text has all its tokens, as the field's samples do, and an
    end-of-document token begins a new document in it.
    """

    count: int
    new_tokens: int
    prompt_tokens: int = 0
    seed: int = 0
    batch_size: int = 16
    sampling: Sampling = field(default_factory=Sampling)
    ends: bool = False


@dataclass(frozen=True)
class Sample:
    """texts: the documents of what was written, cut at end-of-document tokens, and the first of them, which may be
    empty, goes on behind the prompt. tokens: all of it, ends included."""

    prompt: str
    texts: list[str]
    tokens: list[int]


@dataclass(frozen=True)
class Drawn:
    """Samples of S streams. passes: forward passes of a text, of the one that took most.

    tokens_per_second: new tokens of all texts by the time that they took together.
    """

    streams: int
    samples: list[Sample]
    passes: int
    tokens_per_second: float


def check_asked(asked: Asked, streams: Sequence[int], longest: int) -> None:
    """Raises EvaluationError where texts are asked for that the model of `longest` tokens does not write."""
    try:
        check_length(asked.prompt_tokens, asked.new_tokens, longest)
    except ValueError as error:
        raise EvaluationError(f"--new-tokens {asked.new_tokens}: {error}") from error
    if max(streams) > asked.new_tokens:
        raise EvaluationError(
            f"--streams {max(streams)}: {asked.new_tokens} new tokens have at most that many streams; use fewer"
        )


def draw(
    model: ARMD,
    tokenizer: Tokenizer,
    prompts: np.ndarray,
    streams: int,
    asked: Asked,
    progress: Callable[[int], None] | None = None,
    kept: Kept | None = None,
) -> Drawn:
    """A text for each prompt [count, tokens] (ids; of no tokens for unconditional texts).

    `progress` is told the texts done. Passes of a first batch that is thrown away warm caches and kernels up. kept:
    where texts are kept as they come; those that are there are not written again.
    """
    turns = Ordering("strided", streams).turns(asked.new_tokens, seed=0)
    key, done = "", {}
    if kept is not None:
        key = key_of({**kept[1], **asdict(asked), "streams": streams, "prompts": prompts.tolist()})
        done = kept[0].read(key)
    texts, first = list[Text](), len(done)
    for number, start in enumerate(range(0, len(prompts), asked.batch_size)):
        batch = prompts[start : start + asked.batch_size]
        if number not in done:
            if number == first:
                _warm_up(model, tokenizer, batch, turns, asked)
            done[number] = _write(model, tokenizer, batch, turns, asked, asked.seed + start)
            if kept is not None:
                kept[0].append(key, number, done[number])
        texts += done[number]
        if progress is not None:
            progress(len(batch))
    tokens, passes, seconds = zip(*texts, strict=True)
    samples = [make_sample(prompt, new, tokenizer) for prompt, new in zip(prompts.tolist(), tokens, strict=True)]
    return Drawn(streams, samples, max(passes), sum(map(len, tokens)) / sum(seconds))


def _write(
    model: ARMD, tokenizer: Tokenizer, prompts: np.ndarray, turns: list[int], asked: Asked, seed: int
) -> list[Text]:
    """A batch of texts; each took its share of the time."""
    began = time.perf_counter()
    decoding = _begin(model, tokenizer, prompts, turns, asked, seed)
    while decoding.open:
        decoding.step()
    made = decoding.result()
    tokens = [row[prompts.shape[1] : end].tolist() for row, end in zip(made.tokens, made.ends, strict=True)]
    share = (time.perf_counter() - began) / len(prompts)
    return [(new, passes, share) for new, passes in zip(tokens, made.passes, strict=True)]


def _warm_up(model: ARMD, tokenizer: Tokenizer, prompts: np.ndarray, turns: list[int], asked: Asked) -> None:
    decoding = _begin(model, tokenizer, prompts, turns, asked, asked.seed)
    for _ in range(WARM_UP_PASSES):
        if decoding.open:
            decoding.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _begin(
    model: ARMD, tokenizer: Tokenizer, prompts: np.ndarray, turns: list[int], asked: Asked, seed: int
) -> Decoding:
    texts = [[*prompt, *[None] * asked.new_tokens] for prompt in prompts.tolist()]
    ids, when = make_batch(texts, [turns] * len(texts), tokenizer.bos_id)
    eos_id = tokenizer.eos_id if asked.ends else None
    seeds = range(seed, seed + len(texts))
    return Decoding(model, ids, when, asked.sampling, tokenizer.bos_id, seeds, eos_id)


def make_sample(prompt: list[int], tokens: list[int], tokenizer: Tokenizer) -> Sample:
    """Of token ids; the end-of-document token is nowhere in the texts."""
    ends = [place for place, token in enumerate(tokens) if token == tokenizer.eos_id]
    pieces = zip([0, *(end + 1 for end in ends)], [*ends, len(tokens)], strict=True)
    first, *others = [tokenizer.decode(tokens[begin:end]) for begin, end in pieces]
    return Sample(tokenizer.decode(prompt), [first, *filter(None, others)], tokens)
