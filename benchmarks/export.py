"""Memory and time of `armd export --no-verify` for models of two sizes, beside their largest tensor and their size.

Example, a few minutes on two cores and 8 GB of disk in --folder:

    python benchmarks/export.py --folder /tmp/exports --out export.json

For each size it writes a checkpoint of random weights, by PROCESSES processes that each hold a share of every tensor as
ZeRO 3 does; then a process of its own exports it. Memory is the most that this process ever had, less what it had once
everything was imported.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from pydoc_data.topics import topics
from typing import Annotated, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import typer
from rich.console import Console
from turns import report, run_command, setting

from armd_dist.checkpoint.folder import TrainingState, finish, partial_folder, step_folder
from armd_dist.checkpoint.pieces import Piece
from armd_dist.checkpoint.writing import write_tensors
from armd_dist.config import to_yaml
from armd_dist.export.weights import exported_shapes
from armd_dist.export.write import export_checkpoint
from armd_dist.run import Run
from armd_dist.tables import plain_table
from data_pipeline.train_tokenizer import train_tokenizer

PROCESSES = 4
SIZES = {"768 x 12": (768, 12), "1536 x 16": (1536, 16)}  # hidden x layers


def make_run(folder: Path, hidden: int, layers: int) -> Run:
    shape = {"hidden_size": hidden, "num_layers": layers, "num_attention_heads": hidden // 64, "pad_vocab_to": 1}
    return Run.model_validate(
        {
            "run": {"dir": str(folder)},
            "model": {"vocab_size": 50_304, **shape},
            "data": {"path": "unused", "sequence_length": 1024},
            "training": {"steps": 1, "warmup_steps": 0, "precision": "fp32"},
        }
    )


def write_share(rank: int, run: Run, folder: Path, port: int) -> None:
    """Random values, as they cannot be compressed, for this process' part of each tensor."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=PROCESSES)
    pieces = {}
    for name, shape in exported_shapes(run.model).items():
        start, end = (prod(shape) * each // PROCESSES for each in (rank, rank + 1))
        pieces[f"weight/{name}"] = Piece(shape, (0,) * len(shape), shape, start, torch.randn(end - start) * 0.02)
    write_tensors(folder, pieces)
    dist.destroy_process_group()


def make_checkpoint(folder: Path, run: Run) -> Path:
    partial, final = partial_folder(folder, 1), step_folder(folder, 1)
    (partial / "state").mkdir(parents=True)
    processes.spawn(write_share, (run, partial, 29_517), nprocs=PROCESSES)  # type: ignore[attr-defined]
    (partial / "run.yaml").write_text(to_yaml(run))
    (folder / "text.txt").write_text("\n".join(topics.values()))
    train_tokenizer([str(folder / "text.txt")], partial / "tokenizer.model", 600)
    layout = {"world_size": PROCESSES, "tensor": 1, "pipeline": 1, "data": PROCESSES}
    finish(partial, final, TrainingState(1, 1, 0, "left_to_right", 1, "none", "none", layout, {}), {})
    return final


def peak() -> int:
    """Bytes, of this process (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def export_here(checkpoint: Path, out: Path, dtype: str) -> None:
    """In a process that does nothing else; prints what it took."""
    before, began = peak(), time.perf_counter()
    done = export_checkpoint(checkpoint, out, dtype=dtype, check=False)
    assert done is not None
    print(json.dumps({"memory": peak() - before, "seconds": time.perf_counter() - began, "bytes": done.bytes}))


def measure(folder: Path, name: str, dtype: str) -> dict[str, Any]:
    run = make_run(folder / name, *SIZES[name])
    checkpoint = step_folder(folder / name, 1)
    if not checkpoint.exists():
        make_checkpoint(folder / name, run)
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = [sys.executable, __file__, "--export", str(checkpoint), "--folder", str(out), "--dtype", dtype]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    sizes = [4 * prod(shape) for shape in exported_shapes(run.model).values()]
    return {"model": name, "dtype": dtype, "model_bytes": sum(sizes), "largest_tensor": max(sizes), **found}


def show(found: list[dict[str, Any]], console: Console) -> None:
    table = plain_table("model", "dtype", "model MB", "largest tensor MB", "memory MB", "of it", "of model", "MB/s")
    for one in found:
        mega = [f"{one[key] / 1e6:,.0f}" for key in ("model_bytes", "largest_tensor", "memory")]
        ratios = [f"{one['memory'] / one[key]:.3f}" for key in ("largest_tensor", "model_bytes")]
        table.add_row(one["model"], one["dtype"], *mega, *ratios, f"{one['bytes'] / one['seconds'] / 1e6:,.0f}")
    console.print(table)


def main(
    folder: Annotated[Path, typer.Option(help="Where checkpoints and exports are written; a disk, not memory.")],
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16.", show_default="both")] = None,
    export: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if export is not None:
        export_here(export, folder, dtype or "float32")
        return
    found = [measure(folder, name, each) for name in SIZES for each in ([dtype] if dtype else ["float32", "bfloat16"])]
    report(setting(torch.device("cpu"), shares=PROCESSES), found, show, out)


if __name__ == "__main__":
    run_command(main, __doc__)
