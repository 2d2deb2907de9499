"""Several evaluations of one model, as a table and as evaluation.json."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.table import Table

from armd_dist.errors import EvaluationError
from armd_dist.evaluation.likelihood import Perplexity, evaluate_strided
from armd_dist.model.armd import ARMD
from data_pipeline.stream import TokenStream

Results = dict[str, Perplexity]


def parse_streams(text: str) -> list[int]:
    """Numbers of streams from "1,2,4". Raises EvaluationError."""
    try:
        streams = [int(part) for part in text.split(",")]
    except ValueError:
        streams = []
    if not streams or min(streams) < 1:
        raise EvaluationError(f"--streams {text}: is not a list of positive numbers; write --streams 1,2,4")
    return streams


def evaluate_all(
    model: ARMD,
    data: TokenStream,
    streams: list[int],
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> Results:
    """Perplexities by name: left_to_right for one stream, strided_S for S. Raises EvaluationError."""
    if max(streams) > data.sequence_length:
        raise EvaluationError(
            f"--streams {max(streams)}: sequences of {data.sequence_length} tokens have at most that many streams"
        )
    return {
        "left_to_right" if s == 1 else f"strided_{s}": evaluate_strided(model, data, s, batch_size, progress)
        for s in streams
    }


def table(results: Results) -> Table:
    """For the terminal."""
    columns = ("order", "perplexity", "95 % interval", "heads", "parallel", "passes", "price")
    shown = Table(*columns, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    first = next(iter(results.values())).value
    for name, found in results.items():
        shown.add_row(
            name,
            f"{found.value:.2f}",
            f"{found.low:.1f} to {found.high:.1f}",
            f"{found.heads:.2f}",
            "" if found.parallel is None else f"{found.parallel:.2f}",
            str(found.steps),
            f"x {found.value / first:.3f}",
        )
    return shown


def write_json(folder: Path, results: Results, model: Path, data: Path, manifest_hash: str) -> Path:
    """Writes folder/evaluation.json in one rename and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model": str(model),
        "data": str(data),
        "data_manifest_sha256": manifest_hash,
        "perplexity": {name: asdict(found) for name, found in results.items()},
    }
    temporary = folder / ".evaluation.json.partial"
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, folder / "evaluation.json")
    return folder / "evaluation.json"
