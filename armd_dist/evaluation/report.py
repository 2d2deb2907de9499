"""Several evaluations of one model, as a table and as evaluation.json."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.bound import Bound, evaluate_any_order, evaluate_denoiser
from armd_dist.evaluation.likelihood import Perplexity, evaluate_strided
from armd_dist.model.armd import ARMD
from armd_dist.model.denoiser import Denoiser
from armd_dist.tables import plain_table
from data_pipeline.files import write_atomically
from data_pipeline.stream import TokenStream

Results = dict[str, Perplexity | Bound]
Progress = Callable[[int], None]


def parse_streams(text: str) -> list[int]:
    """Numbers of streams from "1,2,4". Raises EvaluationError."""
    try:
        streams = [int(part) for part in text.split(",")]
    except ValueError:
        streams = []
    if not streams or min(streams) < 1:
        raise EvaluationError(f"--streams {text}: is not a list of positive numbers; write --streams 1,2,4")
    return streams


def evaluate_orders(
    model: ARMD,
    data: TokenStream,
    streams: list[int],
    random_orders: int = 0,
    windows: int | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    within_document: bool = False,
) -> Results:
    """Perplexities by name: left_to_right for one stream, strided_S for S, any_order for the bound by random orders.

    `windows`: evaluate these many, None for all. `within_document`: as the model was trained. Raises EvaluationError.
    """
    if max(streams) > data.sequence_length:
        raise EvaluationError(
            f"--streams {max(streams)}: sequences of {data.sequence_length} tokens have at most that many streams"
        )
    count = data.num_windows if windows is None else min(windows, data.num_windows)
    results: Results = {
        "left_to_right" if s == 1 else f"strided_{s}": evaluate_strided(
            model, data, s, batch_size, progress, count, within_document
        )
        for s in streams
    }
    if random_orders:
        results["any_order"] = evaluate_any_order(
            model, data, random_orders, count, batch_size, progress, within_document
        )
    return results


def evaluate_maskings(
    model: Denoiser,
    data: TokenStream,
    block_length: int | None,
    draws: int,
    windows: int | None = None,
    batch_size: int = 16,
    progress: Progress | None = None,
    within_document: bool = False,
) -> Results:
    """The denoiser's bound, as masked_diffusion, or block_diffusion where it works in windows of block_length."""
    name = "masked_diffusion" if block_length is None else "block_diffusion"
    count = data.num_windows if windows is None else min(windows, data.num_windows)
    return {name: evaluate_denoiser(model, data, block_length, draws, count, batch_size, progress, within_document)}


def table(results: Results, within_document: bool = False) -> Table:
    """For the terminal. Bounds say "at most"; importance weighting makes the second, tighter one."""
    shown = plain_table("order", "perplexity", "95 % interval", "heads", "parallel", "passes", "price")
    if within_document:
        shown.caption = "each document by itself, as the model was trained (data.attention=within_document)"
    first = next(iter(results.values())).value
    for name, found in results.items():
        exact = isinstance(found, Perplexity)
        shown.add_row(
            name,
            f"{found.value:.2f}" if exact else f"at most {found.value:.2f}",
            f"{found.low:.1f} to {found.high:.1f}",
            *(_phases(found) if exact else ("", "", "")),
            f"x {found.value / first:.3f}",
        )
        if isinstance(found, Bound) and found.importance is not None:
            weighted = f"at most {found.importance:.2f}"
            shown.add_row(f"  {found.draws} orders", weighted, "", "", "", "", f"x {found.importance / first:.3f}")
    return shown


def _phases(found: Perplexity) -> tuple[str, str, str]:
    return f"{found.heads:.2f}", "" if found.parallel is None else f"{found.parallel:.2f}", str(found.steps)


def write_json(
    folder: Path,
    results: Results,
    model: Path,
    data: TokenStream,
    attention: str = "across_documents",
    ema: bool = False,
) -> Path:
    """Writes folder/evaluation.json in one rename and returns its path."""
    content = {
        "model": str(model),
        "ema": ema,
        "data": data.path,
        "data_manifest_sha256": data.manifest.hash(),
        "sequence_length": data.sequence_length,
        "attention": attention,
        "perplexity": {name: asdict(found) for name, found in results.items()},
    }
    write_atomically(folder / "evaluation.json", (json.dumps(content, indent=2) + "\n").encode())
    return folder / "evaluation.json"
