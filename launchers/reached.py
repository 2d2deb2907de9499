"""How far a run has come, from its folder."""

import json
import os
from contextlib import suppress
from pathlib import Path

from armd_dist.checkpoint.folder import complete_checkpoints, read_training_state
from armd_dist.errors import CheckpointError

# Of metrics.jsonl, which grows for months: more than a line.
LAST_BYTES = 65536


def newest_step(run_dir: Path) -> int:
    """Of the newest complete checkpoint; 0 where there is none."""
    found = complete_checkpoints(run_dir)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def newest_updates(run_dir: Path) -> int:
    """Steps behind the newest checkpoint that changed the weights: those that are skipped get a run nowhere."""
    found = complete_checkpoints(run_dir)
    try:
        return read_training_state(found[-1]).updates if found else 0
    except CheckpointError:
        return newest_step(run_dir)


def last_step(run_dir: Path) -> int:
    """That training has finished, saved or not; 0 before the first."""
    try:
        with open(run_dir / "metrics.jsonl", "rb") as metrics:
            metrics.seek(max(0, metrics.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = metrics.read().splitlines()
    except FileNotFoundError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError):  # of a process that was killed as it wrote
            return int(json.loads(line)["step"])
    return 0
