"""What `armd eval` measures: a model on a dataset's windows and on sets of texts, under every scheme asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.evaluate import Advance, Evaluation, figures
from armd_dist.evaluation.items import Passages, Source, Windows
from armd_dist.evaluation.journal import Journal, Record
from armd_dist.evaluation.opening import Ready
from armd_dist.evaluation.perplexity import Interval, Perplexity, accuracy, price
from armd_dist.evaluation.schemes import Masked, Ordered, Scheme
from armd_dist.evaluation.texts import TextSet
from armd_dist.generation.requests import Ordering
from armd_dist.model.denoiser import Denoiser
from data_pipeline.stream import TokenStream

LEFT_TO_RIGHT = Ordered("left_to_right", Ordering("left_to_right"))
DEFAULT_STREAMS = [1, 2, 4]
MASKINGS = 8  # draws for each window of a denoiser's bound


@dataclass(frozen=True)
class Wanted:
    """streams, blocks: numbers of strided streams (1: left to right) and sizes of blocks; None where nothing was said.

    random_orders: draws for the bound, of orders, or of maskings for a denoiser.
    """

    streams: list[int] | None = None
    blocks: list[int] | None = None
    random_orders: int | None = None

    @property
    def sampled_streams(self) -> list[int]:
        """Numbers of streams in which samples are written."""
        return self.streams or DEFAULT_STREAMS

    def schemes(self, ready: Ready, material: "Sequence[Material]") -> list[Scheme]:
        """Raises EvaluationError for what this kind of model, or the dataset's windows, have not."""
        if isinstance(ready.opened.network, Denoiser):
            return [self._maskings(ready.opened.block_length)]
        streams = self.streams or ([] if self.blocks else DEFAULT_STREAMS)
        longest = min(
            [one.about["sequence_length"] for one in material if "sequence_length" in one.about], default=None
        )
        if longest is not None and max(streams, default=1) > longest:
            rule = f"sequences of {longest} tokens have at most that many streams"
            raise EvaluationError(f"--streams {max(streams)}: {rule}")
        made = [LEFT_TO_RIGHT if s == 1 else Ordered(f"strided_{s}", Ordering("strided", s)) for s in streams]
        made += [Ordered(f"block_{b}", Ordering("block", block_size=b)) for b in self.blocks or []]
        if self.random_orders:
            made.append(Ordered("any_order", Ordering("random"), self.random_orders))
        return list(made)

    def _maskings(self, block_length: int | None) -> Scheme:
        for option, value in (("--streams", self.streams), ("--blocks", self.blocks)):
            if value is not None:
                shown = ",".join(map(str, value))
                raise EvaluationError(f"{option} {shown}: a denoiser has a bound and no likelihood; leave it out")
        if self.random_orders == 0:
            raise EvaluationError("--random-orders 0: a denoiser's bound needs maskings; use 1 or more")
        name = "masked_diffusion" if block_length is None else "block_diffusion"
        return Masked(name, block_length, self.random_orders or MASKINGS)


def parse_numbers(option: str, text: str) -> list[int]:
    """Numbers from "1,2,4". Raises EvaluationError."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise EvaluationError(f"{option} {text}: is not a list of positive numbers; write {option} 1,2,4")
    return numbers


@dataclass(frozen=True)
class Material:
    """Something to score: `about` goes into evaluation.json, `identity` is all that its scores depend on."""

    name: str
    source: Source
    about: dict[str, Any]
    identity: dict[str, Any]
    answers: bool = False  # whether the likeliest text is a right answer


def windows_of(ready: Ready, stream: TokenStream, count: int | None) -> Material:
    """The dataset's first windows, attention as in training."""
    opened = ready.opened
    source = Windows(stream, opened.tokenizer, count, opened.within_document)
    about = {
        "data": stream.path,
        "data_manifest_sha256": stream.manifest.hash(),
        "sequence_length": stream.sequence_length,
        "attention": opened.attention,
    }
    identity = {name: about[name] for name in about if name != "data"}
    return Material("data", source, about, {**identity, "windows": len(source.shapes)})


def passages_of(ready: Ready, texts: TextSet, length: int, stride: int) -> Material:
    """A set's documents. Raises EvaluationError where the model cannot score them."""
    try:
        source = Passages(texts.documents, ready.opened.tokenizer, length, stride)
    except EvaluationError as error:
        raise EvaluationError(f"{texts.path}: {error}") from error
    block = ready.opened.block_length
    if block is not None and any(known % block for _, known in source.shapes):
        raise EvaluationError(
            f"{texts.path}: contexts of this set do not end where a window of orders.block_length={block} does, and a "
            f"denoiser by windows cannot begin within one; use --stride with a multiple of {block}, or whole texts"
        )
    documents = json.dumps([asdict(document) for document in texts.documents])
    about = {"path": texts.path, "detokenizer": texts.detokenizer, "documents": len(texts.documents)}
    identity = {
        "documents": hashlib.sha256(documents.encode()).hexdigest(),
        "length": length,
        "stride": stride,
        "tokenizer": ready.opened.tokenizer.sha256,
    }
    answers = all(document.context for document in texts.documents)
    return Material(texts.name, source, {**about, "stride": stride}, identity, answers)


@dataclass(frozen=True)
class Findings:
    """By the scheme's name; price: of all but the first one, over it; accuracy: for sets of answers."""

    material: Material
    perplexity: dict[str, Perplexity]
    price: dict[str, Interval]
    accuracy: dict[str, Interval]

    def content(self) -> dict[str, Any]:
        """For evaluation.json."""
        prices = {name: {"price": asdict(one)} for name, one in self.price.items()}
        found = {"perplexity": {name: asdict(one) | prices.get(name, {}) for name, one in self.perplexity.items()}}
        accurate = {"accuracy": {name: asdict(one) for name, one in self.accuracy.items()}} if self.accuracy else {}
        return {**self.material.about, **found, **accurate}


def measure(
    ready: Ready,
    material: Material,
    schemes: Sequence[Scheme],
    batch_size: int,
    journal: tuple[Journal[Record], dict[str, Any]] | None = None,
    advance: Advance = lambda _: None,
) -> Findings:
    """All schemes on one material; without figures on other ranks than 0. Collective.

    journal: with what tells this model's scores from others'.
    """
    kept, settings = journal or (None, {})
    evaluation = Evaluation(
        ready.scorer,
        material.source,
        ready.opened.tokenizer.bos_id,
        batch_size,
        ready.team,
        kept,
        {**settings, **material.identity},
    )
    perplexity, prices, right = {}, {}, {}
    first: list[Record] = []
    for scheme in schemes:
        if records := evaluation.records(scheme, advance):
            perplexity[scheme.name] = figures(scheme, material.source, records)
            if first:
                prices[scheme.name] = price(records, first)
            if material.answers and scheme.exact:
                right[scheme.name] = accuracy(records)
            first = first or records
    return Findings(material, perplexity, prices, right)
