"""Held-out texts that begin where samples begin and are as long: their prompts, and what they are held against."""

import numpy as np

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.samples import Asked, Sample, make_sample
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

CHUNK = 1 << 16  # tokens read at a time in search of a document's beginning


def held_out_texts(stream: TokenStream, asked: Asked) -> np.ndarray:
    """[count, prompt + new] tokens of texts spread over the dataset, none of which overlap.

    With prompts each text begins with a document that is longer than its prompt; else it begins anywhere, as the
    windows of training do. Both go on into the next document. Raises EvaluationError where there is not so much text.
    """
    length, total = asked.prompt_tokens + asked.new_tokens, stream.manifest.tokens
    starts: list[int] = []
    for apart in (total // asked.count, 0):  # spread evenly, or close together where that leaves too few
        starts = _starts(stream, asked, apart)
        if len(starts) == asked.count:
            return np.stack([stream.tokens(start, start + length) for start in starts])
    behind = f" behind prompts of {asked.prompt_tokens}" if asked.prompt_tokens else ""
    raise EvaluationError(
        f"--samples {asked.count}: {stream.path} with its {total} tokens has {len(starts)} texts of "
        f"{asked.new_tokens} tokens{behind}; ask for fewer or shorter ones, or give more held-out text"
    )


def references(texts: np.ndarray, asked: Asked, tokenizer: Tokenizer) -> list[Sample]:
    """Held-out texts as samples: what really follows their prompts, up to its end where samples end so."""
    made = []
    for row in texts.tolist():
        prompt, text = row[: asked.prompt_tokens], row[asked.prompt_tokens :]
        if asked.ends and tokenizer.eos_id in text:
            text = text[: text.index(tokenizer.eos_id) + 1]
        made.append(make_sample(prompt, text, tokenizer))
    return made


def _starts(stream: TokenStream, asked: Asked, apart: int) -> list[int]:
    """Where texts begin, at least `apart` tokens from one another as long as that can be."""
    length = asked.prompt_tokens + asked.new_tokens
    last = stream.manifest.tokens - length
    starts: list[int] = []
    free = 0
    for number in range(asked.count):
        start: int | None = max(number * apart, free)
        if asked.prompt_tokens:
            start = _next_document(stream, start, asked.prompt_tokens)
        if start is None or start > last:
            break
        starts.append(start)
        free = start + length
    return starts


def _next_document(stream: TokenStream, start: int, prompt: int) -> int | None:
    """Where the first document begins, from `start` on, that has more than `prompt` tokens."""
    begin = start if start == 0 else None
    total = stream.manifest.tokens
    while start < total:
        stop = min(start + CHUNK, total)
        for end in (start + np.flatnonzero(stream.tokens(start, stop) == stream.manifest.eos_id)).tolist():
            if begin is not None and end - begin > prompt:
                return begin
            begin = end + 1
        start = stop
    return None
