"""Which documents a build takes, and to which split each goes: by its own text alone, so that nothing else matters."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from data_pipeline.document import Document

CHUNK_CHARACTERS = 256 * 1024  # large against the cost of a message between processes, small against memory


@dataclass(frozen=True)
class Selection:
    """The rules: share kept from training (in [0, 1)), fewest characters, whether a repeated text is dropped.

    A document is held out when the hash of its text and `seed` falls in the lowest `held_out` of all hashes, so copies
    of a text never end up on both sides. A copy is told by 64 bits of that hash: among a billion different documents a
    wrong match is expected 0.03 times.
    """

    held_out: float = 0.0
    min_characters: int = 0
    deduplicate: bool = False
    seed: int = 0


@dataclass
class Skipped:
    """Documents left out so far: without text, shorter than the minimum, copies of an earlier one."""

    empty: int = 0
    short: int = 0
    duplicate: int = 0


@dataclass(frozen=True)
class Batch:
    """Documents that were taken, in order.

    `held_out`: the side of each. `numbers`: the place of each among all documents of the inputs, those left out too.
    `next_number`: how many the inputs had shown so far. `read`: bytes on disk read so far.
    """

    texts: list[str]
    held_out: list[bool]
    numbers: list[int]
    next_number: int
    read: int


def select_documents(
    documents: Iterable[Document], selection: Selection, skipped: Skipped, done: tuple[int, int] = (0, 0)
) -> Iterator[Batch]:
    """Yield what `selection` takes of `documents`, counting in `skipped` what it does not.

    `done`: for training and held-out text, the number below which an earlier run has already written the split's
    documents; they are read and counted, and not taken again.

    Memory: a chunk of 256 Ki characters; with `deduplicate` 8 bytes for each different text (24 while runs are joined).
    """
    seen, number = HashSet(), 0
    for chunk in _chunks(documents):
        texts = [document.text for document in chunk]
        hashes = _hashes(texts, selection)
        first = seen.add(hashes, _wanted(texts, selection)) if selection.deduplicate else np.ones(len(texts), bool)
        held_out = hashes < np.uint64(int(selection.held_out * 2**64))
        taken = []
        for place, text in enumerate(texts):
            if not text:
                skipped.empty += 1
            elif len(text) < selection.min_characters:
                skipped.short += 1
            elif not first[place]:
                skipped.duplicate += 1
            elif number + place >= done[bool(held_out[place])]:
                taken.append(place)
        yield Batch(
            texts=[texts[place] for place in taken],
            held_out=[bool(held_out[place]) for place in taken],
            numbers=[number + place for place in taken],
            next_number=number + len(texts),
            read=chunk[-1].read,
        )
        number += len(texts)


class HashSet:
    """64-bit hashes seen so far, in sorted runs each more than twice as long as the next.

    8 bytes a hash, where a Python set takes an object and a slot; looking k up takes one search in each of few runs.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, hashes: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """Take up those of `hashes` (uint64 [k]) that are `counted` (bool [k]): bool [k], which are seen first here."""
        places = np.flatnonzero(counted)
        unique, first = np.unique(hashes[places], return_index=True)
        new = np.ones(len(unique), dtype=bool)
        for run in self._runs:
            found = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            new &= run[found] != unique
        self._append(unique[new])
        out = np.zeros(len(hashes), dtype=bool)
        out[places[first[new]]] = True
        return out

    def _append(self, run: np.ndarray) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
            run.sort(kind="stable")  # a merge, as both parts are sorted
        self._runs.append(run)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.text) + 1  # a document without text takes room too
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _wanted(texts: list[str], selection: Selection) -> np.ndarray:
    """Whether each text is one that the other rules take; a text that is left out has no copies."""
    return np.array([len(text) >= max(1, selection.min_characters) for text in texts])


def _hashes(texts: list[str], selection: Selection) -> np.ndarray:
    """uint64 [documents]; zeros where no rule asks for them."""
    if not (selection.deduplicate or selection.held_out):
        return np.zeros(len(texts), dtype=np.uint64)
    salt = selection.seed.to_bytes(8, "little", signed=True)
    digests = (hashlib.blake2b(text.encode(), digest_size=8, salt=salt).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)
