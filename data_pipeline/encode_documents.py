"""Documents to token ids over several processes, in the documents' own order whatever the number of processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.select_documents import Batch
from data_pipeline.tokenizer import Tokenizer

BATCHES_IN_FLIGHT = 4  # per worker: keeps all of them busy, and bounds what waits in memory


@dataclass(frozen=True)
class EncodedBatch:
    """A batch as ids, each document closed by the end-of-document token.

    `tokens`: uint16 or uint32 [sum of lengths]. `lengths`: int64 [documents]. `source`: the batch, its texts let go.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    source: Batch


class Encoder:
    """Encodes the texts of a batch: (tokens, lengths) of `EncodedBatch`. One lives in each worker process."""

    def __init__(self, tokenizer_path: Path, dtype: str) -> None:
        self._tokenizer = Tokenizer.load(tokenizer_path)
        self._dtype = np.dtype(dtype).newbyteorder("<")

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = self._tokenizer.encode_batch(texts)
        for document in ids:
            document.append(self._tokenizer.eos_id)
        lengths = np.array([len(document) for document in ids], dtype=np.int64)
        return np.fromiter(chain.from_iterable(ids), self._dtype, count=int(lengths.sum())), lengths


def encode_documents(
    batches: Iterable[Batch], tokenizer_path: Path, dtype: str, *, workers: int
) -> Iterator[EncodedBatch]:
    """Encode `batches` with `workers` processes (1: in this one) and yield them in order.

    Memory is bounded by the batches in flight. Raises `DataError` when a worker process dies.
    """
    if workers == 1:
        encode = Encoder(tokenizer_path, dtype)
        for batch in batches:
            yield EncodedBatch(*encode(batch.texts), replace(batch, texts=[]))
        return
    # spawn: forking a process that runs threads (a progress display, a trainer) may deadlock the child.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(tokenizer_path, dtype))
    pending: deque[tuple[Future[tuple[np.ndarray, np.ndarray]], Batch]] = deque()
    try:
        for batch in batches:
            pending.append((pool.submit(_encode, batch.texts), replace(batch, texts=[])))
            if len(pending) >= BATCHES_IN_FLIGHT * workers:
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())
    except BrokenProcessPool:
        raise DataError("a tokenizing process died, most likely out of memory; use fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[tuple[np.ndarray, np.ndarray]], batch: Batch) -> EncodedBatch:
    return EncodedBatch(*future.result(), batch)


_encoder: Encoder | None = None  # of this worker process


def _start_worker(tokenizer_path: Path, dtype: str) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _encoder = Encoder(tokenizer_path, dtype)


def _die_with_parent() -> None:
    """A parent that was killed closes no queue: its workers would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    assert _encoder is not None
    return _encoder(texts)
