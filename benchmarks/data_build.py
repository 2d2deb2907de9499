"""Tokenising, for benchmarks/data.py: `armd data build`'s work beside sentencepiece that encodes and writes nothing."""

import json
import multiprocessing
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import sentencepiece

from data_pipeline.read_text import documents
from data_pipeline.write_shards import build_dataset

HELD_OUT = 0.01
MIB = 1 << 20


def write_text(inputs: list[str], file: Path, size: int) -> int:
    """JSON lines of the inputs' documents, again and again until their text has `size` bytes; the bytes it has."""
    lines, written = [], 0
    for document in documents(inputs):
        lines.append((json.dumps({"text": document.text}) + "\n", len(document.text.encode())))
    with file.open("w") as out:
        while written < size:
            for line, length in lines:
                out.write(line)
                written += length
                if written >= size:
                    break
    return written


def build(text: Path, model: Path, out: Path, processes: int) -> None:
    """A whole build, thrown away again."""
    build_dataset([str(text)], model, out, workers=processes, held_out=HELD_OUT)
    shutil.rmtree(out)


def bare(shares: list[Path], model: Path) -> None:
    """Each share of the documents encoded by a process of its own, one share by this one; the ids are dropped."""
    if len(shares) == 1:
        _encode(shares[0], model)
        return
    with ProcessPoolExecutor(len(shares), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_encode, shares, [model] * len(shares)))


def _encode(share: Path, model: Path) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    processor.encode(json.loads(share.read_text()), num_threads=1)


def write_shares(text: Path, folder: Path, processes: int) -> list[Path]:
    """The documents dealt out to `processes` files, each one JSON list."""
    texts = [document.text for document in documents([str(text)])]
    shares = [folder / f"share-{number}-of-{processes}.json" for number in range(processes)]
    for number, share in enumerate(shares):
        share.write_text(json.dumps(texts[number::processes]))
    return shares


def peak(text: Path, model: Path, out: Path, processes: int) -> dict[str, float]:
    """Peak memory in MiB of a build in a process of its own and of its largest worker, and its seconds."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak, text, model, out, processes).result()


def _peak(text: Path, model: Path, out: Path, processes: int) -> dict[str, float]:
    began = time.perf_counter()
    build(text, model, out, processes)
    used = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.perf_counter() - began
    return {"text_mib": text.stat().st_size / MIB, "main_mib": used[0], "worker_mib": used[1], "seconds": seconds}
