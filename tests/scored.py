"""Evaluations in one call, for tests of several rooms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from armd_dist.evaluation.evaluate import Evaluation
from armd_dist.evaluation.items import Windows
from armd_dist.evaluation.perplexity import Perplexity
from armd_dist.evaluation.schemes import Ordered, Scheme
from armd_dist.evaluation.scoring import Scorer
from armd_dist.evaluation.study import LEFT_TO_RIGHT
from armd_dist.generation.requests import Ordering
from armd_dist.model.network import Network
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer


def strided(streams: int) -> Ordered:
    return LEFT_TO_RIGHT if streams == 1 else Ordered(f"strided_{streams}", Ordering("strided", streams))


def any_orders(draws: int) -> Ordered:
    return Ordered("any_order", Ordering("random"), draws)


def windows_of(stream: TokenStream, count: int | None = None, within_document: bool = False) -> Windows:
    return Windows(stream, tokenizer_of(stream), count, within_document)


def tokenizer_of(stream: TokenStream) -> Tokenizer:
    return Tokenizer.load(Path(stream.folder) / stream.manifest.tokenizer)


def evaluate(
    network: Network,
    stream: TokenStream,
    scheme: Scheme,
    windows: int | None = None,
    batch_size: int = 16,
    advance: Callable[[int], object] = lambda _: None,
    **how: Any,
) -> Perplexity:
    """The first windows of a dataset under one scheme, on this process."""
    source = windows_of(stream, windows, **how)
    found = Evaluation(Scorer(network), source, stream.manifest.bos_id, batch_size).perplexity(scheme, advance)
    assert found is not None
    return found
