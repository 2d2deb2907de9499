"""What the judge makes of samples: nats of every token, and of each text as a whole a vector."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.judge import Judge
from armd_dist.evaluation.perplexity import bootstrap
from armd_dist.evaluation.samples import Sample


@dataclass(frozen=True)
class Judged:
    """Of each sample: nats and tokens [samples] (the judge's; prompts and ends of documents are not counted).

    features: the last layer's hidden state at each text's last token, [samples, hidden]; None where the judge does not
    give it. truncated: samples that the judge's context has cut. empty: samples without text, which count for nothing.
    """

    nats: np.ndarray
    tokens: np.ndarray
    features: np.ndarray | None
    truncated: int
    empty: int = 0


@dataclass(frozen=True)
class _Read:
    """A sample in the judge's ids, and which of them count."""

    ids: list[int]
    counted: list[bool]
    truncated: bool


@torch.no_grad()
def read(
    judge: Judge,
    samples: Sequence[Sample],
    batch_size: int = 8,
    features: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Judged:
    """The judge's nats of every sample. `progress` is told those done. Raises EvaluationError, with a number."""
    empty = sum(not any(sample.texts) for sample in samples)
    if empty == len(samples):
        raise EvaluationError(f"--judge {judge.path}: all {empty} samples are empty: there is nothing to judge")
    texts = [_encode(judge, sample, number) for number, sample in enumerate(samples)]
    nats, states = np.empty(len(texts)), {}
    # Of like length together, so that little is padded.
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number].ids))
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        found = _read_batch(judge, [texts[number] for number in numbers], features)
        for number, (sum_of_nats, state) in zip(numbers, found, strict=True):
            nats[number], states[number] = sum_of_nats, state
        if progress is not None:
            progress(len(numbers))
    if not np.isfinite(nats).all():
        number = int(np.flatnonzero(~np.isfinite(nats))[0])
        rule = "the judge gives no finite number for it; use --judge-dtype float32"
        raise EvaluationError(f"--judge {judge.path}: sample {number}: {rule}")
    given = features and states[0] is not None
    return Judged(
        nats=nats,
        tokens=np.array([sum(text.counted) for text in texts]),
        features=np.stack([states[number] for number in range(len(texts))]) if given else None,
        truncated=sum(text.truncated for text in texts),
        empty=empty,
    )


def _encode(judge: Judge, sample: Sample, number: int) -> _Read:
    """The start, the prompt and the texts with ends between them; what the judge cannot take is cut at the end."""
    first, *others = sample.texts
    prompt = _ids(judge, sample.prompt)
    # As one text: a tokenizer may put a blank in front of one that stands alone.
    whole = _ids(judge, sample.prompt + first)
    ids, counted = [judge.start, *whole], [False, *[place >= len(prompt) for place in range(len(whole))]]
    for text in others:
        more = _ids(judge, text)
        ids, counted = [*ids, judge.end, *more], [*counted, False, *[True] * len(more)]
    ids, counted, length = ids[: judge.context], counted[: judge.context], len(ids)
    if any(sample.texts) and not any(counted):
        rule = f"the judge's {judge.context} tokens end before anything of it is read; use shorter prompts"
        raise EvaluationError(f"sample {number}: {rule}")
    return _Read(ids, counted[: len(ids)], len(ids) < length)


def _ids(judge: Judge, text: str) -> list[int]:
    return judge.tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text else []


def _read_batch(judge: Judge, texts: list[_Read], features: bool) -> Iterator[tuple[float, np.ndarray | None]]:
    """Nats and hidden state of each text. Padding stands behind, where a causal model does not look."""
    longest = max(len(text.ids) for text in texts)
    padded = [text.ids + [judge.end] * (longest - len(text.ids)) for text in texts]
    ids = torch.tensor(padded, device=judge.model.device)
    asked = features and judge.gives_states
    out = judge.model(input_ids=ids, **({"output_hidden_states": True} if asked else {}))
    hidden = out.hidden_states if asked else None
    for row, text in enumerate(texts):
        length = len(text.ids)
        nats = F.cross_entropy(out.logits[row, : length - 1].float(), ids[row, 1:length], reduction="none")
        counted = torch.tensor(text.counted[1:], device=nats.device)
        state = None if hidden is None else _host(hidden[-1][row, length - 1])
        yield nats[counted].double().sum().item(), state


def _host(state: Tensor) -> np.ndarray:
    return state.float().cpu().numpy()


def perplexity(judged: Judged) -> tuple[float, float | None, float | None]:
    """exp of the mean nats per token of all samples, and a 95 % interval by bootstrap over them (None for one)."""
    there = judged.tokens > 0
    low, high = bootstrap(judged.nats[there], judged.tokens[there])
    value = math.exp(judged.nats.sum() / judged.tokens.sum())
    return value, None if low is None else math.exp(low), None if high is None else math.exp(high)
