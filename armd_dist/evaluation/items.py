"""What is scored: tokens in text order, some of them behind a context that is given and not scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.texts import Document
from data_pipeline.stream import TokenStream
from data_pipeline.tokenizer import Tokenizer


@dataclass(frozen=True)
class Item:
    """What one row of a batch reads.

    tokens: [n], int64; the first `known` are given. documents: [n - known], which of the item's documents each scored
    token belongs to, from 0. bytes: of text that is scored here, for each of these documents; None where the tokenizer
    does not tell. ends: whether the last of them ends here; if not, it goes on in the next item.
    """

    tokens: np.ndarray
    known: int
    documents: np.ndarray
    bytes: list[int] | None
    ends: bool


class Source(Protocol):
    """Items by number. Those of one document follow one another.

    shapes: (tokens, known) of every item. eos_id: where attention stays within documents the token that ends one.
    """

    @property
    def shapes(self) -> Sequence[tuple[int, int]]: ...

    @property
    def eos_id(self) -> int | None: ...

    def items(self, numbers: Sequence[int]) -> list[Item]: ...


class Windows:
    """The first `count` windows of a dataset, or all. Without context: the first token of each sees BOS alone.

    within_document: a token sees those of its own document alone, as the model was trained.
    """

    def __init__(
        self, stream: TokenStream, tokenizer: Tokenizer, count: int | None = None, within_document: bool = False
    ) -> None:
        self.stream = stream
        self.sizes = tokenizer.token_bytes()
        self.shapes = [(stream.sequence_length, 0)] * min(count or stream.num_windows, stream.num_windows)
        self.eos_id = stream.manifest.eos_id if within_document else None

    def items(self, numbers: Sequence[int]) -> list[Item]:
        return [self._item(tokens) for tokens in self.stream.windows(np.array(numbers))]

    def _item(self, tokens: np.ndarray) -> Item:
        ends = tokens == self.stream.manifest.eos_id
        documents = np.concatenate(([0], ends[:-1].cumsum()))
        sizes = None if self.sizes is None else np.bincount(documents, self.sizes[tokens]).astype(int).tolist()
        return Item(tokens, 0, documents, sizes, bool(ends[-1]))


class Passages:
    """Documents one by one, each in as few items as the length allows.

    One that is longer than `length` tokens is read in windows that begin `stride` tokens apart; a window scores what no
    earlier one has, behind what it shares with them. A context too long for its text loses its beginning. Nothing is
    added to a document: its end is not scored. Raises EvaluationError for one without tokens.
    """

    def __init__(self, documents: Sequence[Document], tokenizer: Tokenizer, length: int, stride: int) -> None:
        self.eos_id = None
        self._texts: list[tuple[list[int], int]] = []  # context and text as tokens, and bytes of the text
        self._spans: list[tuple[int, int, int, int]] = []  # document, begin, first scored token, end
        for number, document in enumerate(documents):
            context, text = tokenizer.encode_batch([document.context, document.text])
            if not text:
                raise EvaluationError(f"document {number} of {len(documents)}: has no text; leave it out")
            self._texts.append((context + text, len(document.text.encode())))
            here = spans(len(context), len(context) + len(text), length, stride)
            self._spans += [(number, *span) for span in here]
        self.shapes = [(end - begin, scored - begin) for _, begin, scored, end in self._spans]

    def items(self, numbers: Sequence[int]) -> list[Item]:
        return [self._item(number) for number in numbers]

    def _item(self, number: int) -> Item:
        document, begin, scored, end = self._spans[number]
        tokens, size = self._texts[document]
        first = number == 0 or self._spans[number - 1][0] != document
        return Item(
            tokens=np.array(tokens[begin:end], dtype=np.int64),
            known=scored - begin,
            documents=np.zeros(end - scored, dtype=np.int64),
            bytes=[size if first else 0],
            ends=end == len(tokens),
        )


def spans(context: int, total: int, length: int, stride: int) -> list[tuple[int, int, int]]:
    """(begin, first scored token, end) of the windows that score tokens `context` to `total` of a text once each."""
    if total - context <= length:
        return [(max(0, total - length), context, total)]
    found, done = [], context
    for begin in range(0, total, stride):
        end = min(begin + length, total)
        if end > done:
            found.append((begin, done, end))
            done = end
        if done == total:
            break
    return found


def make_batches(shapes: Sequence[tuple[int, int]], size: int, ragged: bool) -> list[list[int]]:
    """Numbers of the items that are read together, long ones first: a function of the shapes and nothing else.

    ragged: items of different shapes may stand in one batch.
    """
    order = sorted(range(len(shapes)), key=lambda number: (-shapes[number][0], shapes[number][1], number))
    batches: list[list[int]] = []
    for number in order:
        fits = batches and len(batches[-1]) < size and (ragged or shapes[batches[-1][0]] == shapes[number])
        if fits:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches
