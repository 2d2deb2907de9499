"""The quality of generated text at every number of streams: a judge's perplexity, variety, speed; beside real text."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from armd_dist.evaluation.diversity import diversity
from armd_dist.evaluation.generative_perplexity import Judged, perplexity, read
from armd_dist.evaluation.held_out import held_out_texts, references
from armd_dist.evaluation.judge import Judge
from armd_dist.evaluation.mauve_score import mauve, why_no_mauve
from armd_dist.evaluation.samples import Asked, Drawn, Kept, Sample, check_asked, draw
from armd_dist.model.armd import ARMD
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer

EXAMPLES = 3
JUDGE_BATCH = 8
Quality = dict[str, dict[str, Any]]


def evaluate_generation(
    model: ARMD,
    tokenizer: Tokenizer,
    stream: TokenStream,
    streams: Sequence[int],
    asked: Asked,
    judge: Judge | None = None,
    progress: Callable[[int], None] | None = None,
    judge_batch_size: int = JUDGE_BATCH,
    kept: Kept | None = None,
) -> Quality:
    """`reference` (held-out text) and `strided_S` for each S, as evaluation.json has them under `generation`.

    stream: the held-out dataset, which gives prompts and the reference. `progress` is told texts written or judged, of
    (streams + 1) x count written and as many judged. kept: as of `draw`. Raises EvaluationError before anything is
    written, where what is asked for cannot be.
    """
    check_asked(asked, streams, model.config.max_sequence_length)
    texts = held_out_texts(stream, asked)
    real = references(texts, asked, tokenizer)
    judged = None if judge is None else _read(judge, real, judge_batch_size, progress)
    found = {"reference": {**_of_samples(real, asked), **_of_judge(judge, judged)}}
    for count in streams:
        drawn = draw(model, tokenizer, texts[:, : asked.prompt_tokens], count, asked, progress, kept)
        found[f"strided_{count}"] = _of_drawn(drawn, asked, judge, judged, judge_batch_size, progress)
    return found


def _of_drawn(
    drawn: Drawn,
    asked: Asked,
    judge: Judge | None,
    real: Judged | None,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> dict[str, Any]:
    timed = {"tokens_per_second": drawn.tokens_per_second, "passes": drawn.passes}
    found = {"streams": drawn.streams, **_of_samples(drawn.samples, asked), **timed}
    if judge is None or real is None:
        return {**found, **_of_judge(judge, None), "mauve": None, "mauve_reason": "needs a judge"}
    judged = _read(judge, drawn.samples, batch_size, progress)
    return {**found, **_of_judge(judge, judged), **_of_features(real, judged)}


def _read(judge: Judge, samples: list[Sample], batch_size: int, progress: Callable[[int], None] | None) -> Judged:
    return read(judge, samples, batch_size, why_no_mauve(len(samples)) is None, progress)


def _of_features(real: Judged, judged: Judged) -> dict[str, Any]:
    reason = why_no_mauve(len(judged.nats))
    if real.features is None or judged.features is None:
        return {"mauve": None, "mauve_reason": reason or "the judge gives no hidden states"}
    return {"mauve": mauve(real.features, judged.features), "mauve_reason": None}


def _of_samples(samples: list[Sample], asked: Asked) -> dict[str, Any]:
    examples = [one.prompt + "\n\n".join(one.texts) for one in samples[:EXAMPLES]]
    return {
        "samples": len(samples),
        "prompt_tokens": asked.prompt_tokens,
        "new_tokens": asked.new_tokens,
        **asdict(diversity([one.tokens for one in samples])),
        "examples": examples,
    }


def _of_judge(judge: Judge | None, judged: Judged | None) -> dict[str, Any]:
    if judge is None or judged is None:
        return {"gen_ppl": None}
    value, low, high = perplexity(judged)
    about = {"judge": judge.path, "judge_dtype": judge.dtype, "judge_context": judge.context}
    counts = {"tokens": int(np.sum(judged.tokens)), "truncated": judged.truncated, "empty": judged.empty}
    return {"gen_ppl": {"value": value, "low": low, "high": high, **counts, **about}}
