"""Speed and memory of the data pipeline beside the alternatives, on the same tokens and text, in one run.

Example, a few minutes on two cores:

    python benchmarks/data.py --out data.json

Stream: batches of int64 tokens, from the page cache, one process. Beside it random windows of a numpy memmap (the
limit) and webdataset over tars of one sequence a member, in stored order and through a shuffle buffer, and over our
own shards, in stored order. Resume: the first batch at sample 10^9 of a dataset of a thousand sparse shards. Build:
bytes of text a second, processes started and ended, beside sentencepiece that encodes as much with as many processes
and drops the ids.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import data_build
import data_streams
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from turns import report, run_command, setting, take_turns

from data_pipeline.manifest import load_manifest
from data_pipeline.train_tokenizer import train_tokenizer
from data_pipeline.write_shards import build_dataset

CPU = torch.device("cpu")
MEMMAP, SMALL, LARGE = "numpy memmap, random windows", "webdataset, one sequence a member", "webdataset, our shards"
SHUFFLED, BUFFER = "webdataset, one sequence a member, shuffled", 1000
TOKENS_ALONE = "armd-dist, tokens alone"
RESUME_SAMPLE, RESUME_BATCH = 10**9, 16
SHARDS, SHARD_TOKENS = 1024, 1 << 30  # 1.1e12 tokens: sample 10^9 of 1,024 tokens lies in the first epoch
REPLAYED = 2000  # samples that a replay is timed on


def stream(dataset: Path, folder: Path, length: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds a sample of every way to read the same tokens."""
    manifest = load_manifest(dataset)
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    data_streams.write_flat(dataset, folder / "flat.bin")
    data_streams.write_small_members(folder / "small.tar", np.memmap(folder / "flat.bin", dtype, "r"), length)
    shards = [str(dataset / shard.file) for shard in manifest.shards]
    candidates: dict[str, data_streams.Read] = {
        MEMMAP: data_streams.memmap(folder / "flat.bin", dtype, length, batch),
        SMALL: data_streams.small_members([str(folder / "small.tar")], dtype, batch),
        SHUFFLED: data_streams.small_members([str(folder / "small.tar")], dtype, batch, BUFFER),
        LARGE: data_streams.large_members(shards, dtype, length, batch),
        TOKENS_ALONE: data_streams.ours(dataset, length, batch, None),
    }
    for phase in data_streams.PHASES:
        candidates[f"armd-dist, orders drawn: {phase}"] = data_streams.ours(dataset, length, batch, phase)
    assert all(read().shape == (batch, length) for read in candidates.values())
    taken = take_turns(candidates, rounds, CPU)
    return [
        {
            "way": name,
            "microseconds_a_sample": seconds / batch * 1e6,
            "of_memmap": taken[MEMMAP] / seconds,
            "times_webdataset": taken[SMALL] / seconds,
        }
        for name, seconds in taken.items()
    ]


def resume(dataset: Path, folder: Path, length: int, batch: int) -> dict[str, Any]:
    """Seconds from an opened dataset to the first batch far into training, and what a replay up to there would take."""
    synthetic, (phase, *_) = folder / "synthetic", data_streams.PHASES
    data_streams.write_synthetic(dataset, synthetic, SHARDS, SHARD_TOKENS)
    opening, first = [], []
    for attempt in range(5):
        began = time.perf_counter()
        data = data_streams.open_data(synthetic, length)
        opened = time.perf_counter()
        data_streams.first_batch(data, RESUME_SAMPLE + attempt * RESUME_BATCH, RESUME_BATCH, phase)
        opening.append(opened - began)
        first.append(time.perf_counter() - opened)
    dtype = np.dtype(load_manifest(dataset).dtype).newbyteorder("<")
    read = data_streams.small_members([str(folder / "small.tar")], dtype, batch)
    read()
    began = time.perf_counter()
    for _ in range(REPLAYED // batch):
        read()
    skipped = (time.perf_counter() - began) / (REPLAYED // batch * batch)
    return {
        "first_batch_ms": float(np.median(first)) * 1e3,
        "slowest_first_batch_ms": max(first) * 1e3,
        "opening_ms": float(np.median(opening)) * 1e3,
        "replay_hours": skipped * RESUME_SAMPLE / 3600,
    }


def tokenising(text: Path, size: int, model: Path, folder: Path, counts: list[int], rounds: int) -> list[dict]:
    """Build and bare sentencepiece in turns, for each number of processes."""
    lines = []
    for processes in counts:
        shares = data_build.write_shares(text, folder, processes)
        ways = {
            "bare": partial(data_build.bare, shares, model),
            "build": partial(data_build.build, text, model, folder / "timed", processes),
        }
        taken = take_turns(ways, rounds, CPU)
        rates = {name: size / seconds / 1e6 for name, seconds in taken.items()}
        lines.append({"processes": processes, "mb_per_second": rates, "of_bare": rates["build"] / rates["bare"]})
    return lines


def memory(inputs: list[str], size: int, model: Path, folder: Path, processes: int) -> list[dict[str, float]]:
    """Peak memory of a build of the text, and of four times as much."""
    lines = []
    for times in (1, 4):
        data_build.write_text(inputs, folder / "long.jsonl", times * size)
        lines.append(data_build.peak(folder / "long.jsonl", model, folder / "measured", processes))
    return lines


def show(found: dict[str, Any], console: Console) -> None:
    table = Table("way to read", "µs a sample", "rate / memmap's", "rate / webdataset's, one a member", title="stream")
    for line in found["stream"]:
        ratios = (f"{line['of_memmap']:.0%}", f"{line['times_webdataset']:.1f}")
        table.add_row(line["way"], f"{line['microseconds_a_sample']:.1f}", *ratios)
    console.print(table)
    far = found["resume"]
    table = Table(
        "first batch, ms (slowest of 5)", "opening the dataset, ms", "webdataset's replay, hours", title="resume"
    )
    first = f"{far['first_batch_ms']:.1f} ({far['slowest_first_batch_ms']:.1f})"
    table.add_row(first, f"{far['opening_ms']:.1f}", f"{far['replay_hours']:.1f} (extrapolated)")
    console.print(table)
    table = Table("processes", "build, MB/s", "bare sentencepiece, MB/s", "ratio", title="build")
    for line in found["build"]:
        rates = [f"{line['mb_per_second'][name]:.1f}" for name in ("build", "bare")]
        table.add_row(str(line["processes"]), *rates, f"{line['of_bare']:.0%}")
    console.print(table)
    table = Table("text, MiB", "main process' peak, MiB", "largest worker's, MiB", title="memory of a build")
    for line in found["memory"]:
        table.add_row(*(f"{line[name]:.0f}" for name in ("text_mib", "main_mib", "worker_mib")))
    console.print(table)


def main(
    text: Annotated[list[str] | None, typer.Option(help="As --input of armd data build. Default: python-docs.")] = None,
    length: Annotated[int, typer.Option(min=8, help="Tokens of a sequence.")] = 1024,
    batch: Annotated[int, typer.Option(min=1, help="Sequences that are read at once.")] = 256,
    megabytes: Annotated[int, typer.Option(min=1, help="Text to tokenise; shorter inputs are repeated.")] = 16,
    vocab_size: Annotated[int, typer.Option(help="Of the tokenizer trained on the text.")] = 8192,
    processes: Annotated[list[int] | None, typer.Option(help="Tokenising processes. Default: 1 and 2.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each way to read; builds take 3.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Writes setting and figures as JSON.")] = None,
) -> None:
    inputs, counts = text or ["python-docs"], processes or [1, 2]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = data_build.write_text(inputs, folder / "text.jsonl", megabytes * 10**6)
        model = train_tokenizer([str(folder / "text.jsonl")], folder / "t.model", vocab_size).path
        build_dataset([str(folder / "text.jsonl")], model, folder / "dataset")
        dataset = folder / "dataset/train"
        found: dict[str, Any] = {"stream": stream(dataset, folder, length, batch, rounds)}
        found["resume"] = resume(dataset, folder, length, batch)
        found["build"] = tokenising(folder / "text.jsonl", size, model, folder, counts, 3)
        found["memory"] = memory(inputs, size, model, folder, max(counts))
        tokens = load_manifest(dataset).tokens
    facts = setting(CPU, length=length, batch=batch, text_mb=size / 1e6, tokens=tokens, vocab_size=vocab_size)
    facts |= {"rounds": rounds, "resume_batch": RESUME_BATCH}
    report(facts, found, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
