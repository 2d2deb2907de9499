"""Documents to token ids over several processes, in the documents' own order whatever the number of processes."""

import hashlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.read_text import Document
from data_pipeline.tokenizer import Tokenizer

CHUNK_CHARACTERS = 256 * 1024  # large against the cost of a message between processes, small against memory
CHUNKS_IN_FLIGHT = 4  # per worker: keeps all of them busy, and bounds what waits in memory


@dataclass(frozen=True)
class EncodedChunk:
    """Consecutive documents as ids, each closed by the end-of-document token; documents without text are left out.

    `tokens`: uint16 or uint32 [sum of lengths]. `lengths`: int64 [documents]. `held_out`: bool [documents].
    `bytes`: UTF-8 bytes read. `empty`: documents left out.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    held_out: np.ndarray
    bytes: int
    empty: int


class Encoder:
    """Encodes chunks of documents; one lives in each worker process."""

    def __init__(self, tokenizer_path: Path, dtype: str, held_out: float, seed: int) -> None:
        self._tokenizer = Tokenizer.load(tokenizer_path)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._threshold = int(held_out * 2**64)
        self._salt = seed.to_bytes(8, "little", signed=True)

    def __call__(self, texts: list[str]) -> EncodedChunk:
        """Encode the texts of one chunk."""
        written = [text for text in texts if text]
        ids = self._tokenizer.encode_batch(written)
        for document in ids:
            document.append(self._tokenizer.eos_id)
        raw = [text.encode() for text in written]
        return EncodedChunk(
            tokens=np.concatenate([np.empty(0, self._dtype), *(np.array(document, self._dtype) for document in ids)]),
            lengths=np.array([len(document) for document in ids], dtype=np.int64),
            held_out=np.array([self._is_held_out(text) for text in raw], dtype=bool),
            bytes=sum(map(len, raw)),
            empty=len(texts) - len(written),
        )

    def _is_held_out(self, text: bytes) -> bool:
        """By the text alone, so that copies of a document never end up on both sides."""
        digest = hashlib.blake2b(text, digest_size=8, salt=self._salt).digest()
        return int.from_bytes(digest, "little") < self._threshold


def encode_documents(
    documents: Iterable[Document], tokenizer_path: Path, dtype: str, *, workers: int, held_out: float, seed: int
) -> Iterator[EncodedChunk]:
    """Encode `documents` with `workers` processes (1: in this one) and yield the chunks in order.

    A document is held out when the hash of its text and `seed` falls in the lowest `held_out` of all hashes. Memory is
    bounded by the chunks in flight. Raises `DataError` when a worker process dies.
    """
    settings = (tokenizer_path, dtype, held_out, seed)
    chunks = _chunks(documents)
    if workers == 1:
        yield from map(Encoder(*settings), chunks)
        return
    # spawn: forking a process that runs threads (a progress display, a trainer) may deadlock the child.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=settings)
    pending: deque[Future[EncodedChunk]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_encode, chunk))
            if len(pending) >= CHUNKS_IN_FLIGHT * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        raise DataError("a tokenizing process died, most likely out of memory; use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _chunks(documents: Iterable[Document]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document.text)
        size += len(document.text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


_encoder: Encoder | None = None  # of this worker process


def _start_worker(tokenizer_path: Path, dtype: str, held_out: float, seed: int) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    _encoder = Encoder(tokenizer_path, dtype, held_out, seed)


def _encode(texts: list[str]) -> EncodedChunk:
    assert _encoder is not None
    return _encoder(texts)
